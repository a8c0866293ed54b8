"""The closing table of ``vidrisk demo``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from vidrisk.demo import DemoResult


def print_demo(result: DemoResult) -> None:
    table = Table("task", "runtime", "variant", "n", "top-1", "F1", "= fp32", "frames/s")
    for line in result.lines:
        table.add_row(line.task, line.runtime, line.variant, str(line.samples), f"{line.top1:.1%}", f"{line.macro_f1:.3f}",
                      f"{line.agreement_with_fp32:.1%}", f"{line.frames_per_s:.0f}")
    Console().print(table)
    for name, page in result.reports.items():
        typer.echo(f"{name} report: {page}")
