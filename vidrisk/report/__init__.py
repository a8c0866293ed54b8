"""One self-contained HTML page about an output folder of ``vidrisk infer``.

``build_report`` is imported when it is asked for: the processes that read thumbnails have no use for it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidrisk.report.build import build_report

__all__ = ["build_report"]


def __getattr__(name: str) -> Any:
    if name != "build_report":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vidrisk.report.build import build_report

    return build_report
