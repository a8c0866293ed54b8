"""Self-contained HTML pages about an output folder of ``vidrisk infer``: what was found, and reports beside the truth.

The functions are imported when they are asked for: the processes that read thumbnails have no use for them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidrisk.report.build import build_report
    from vidrisk.report.comparison import build_comparison

__all__ = ["build_comparison", "build_report"]


def __getattr__(name: str) -> Any:
    if name == "build_report":
        from vidrisk.report.build import build_report

        return build_report
    if name == "build_comparison":
        from vidrisk.report.comparison import build_comparison

        return build_comparison
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
