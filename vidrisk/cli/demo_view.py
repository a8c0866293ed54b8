"""The closing table of ``vidrisk demo``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vidrisk.cli.console import say, say_table

if TYPE_CHECKING:
    from vidrisk.demo import DemoResult


def print_demo(result: DemoResult) -> None:
    say_table(
        ("task", "runtime", "variant", "n", "top-1", "F1", "= fp32", "frames/s"),
        (
            (
                line.task,
                line.runtime,
                line.variant,
                str(line.samples),
                f"{line.top1:.1%}",
                f"{line.macro_f1:.3f}",
                f"{line.agreement_with_fp32:.1%}",
                f"{line.frames_per_s:.0f}",
            )
            for line in result.lines
        ),
    )
    for name, page in result.reports.items():
        say(f"{name} report: {page}")
