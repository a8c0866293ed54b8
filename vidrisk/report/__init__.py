"""One self-contained HTML page about an output folder of ``vidrisk infer``."""

from vidrisk.report.build import build_report

__all__ = ["build_report"]
