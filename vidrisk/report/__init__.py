"""Self-contained HTML pages for an output folder of ``vidrisk infer``: its results, and a comparison with the truth.

The functions are imported on first access, because the processes that read thumbnails do not need them.
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
