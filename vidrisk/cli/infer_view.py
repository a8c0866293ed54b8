"""The short summary that ``vidrisk infer`` ends with."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vidrisk.frames.media import name_of
from vidrisk.infer.pipeline import Pace
from vidrisk.infer.summary import Summary


def note_from_pace(pace: Pace) -> str:
    return (f"{pace.files_per_s:.1f} files/s, {pace.clips_per_s:.1f} clips/s; {pace.decoded} frames decoded, {pace.batched} in the "
            f"batch; waiting for {pace.bottleneck}")


def print_summary(summary: Summary, result: Path, *, as_json: bool) -> None:
    """``result`` is what to open next: the report, or the output folder."""
    if as_json:
        typer.echo(summary.to_json())
        return
    target = summary.targets[0]["name"]
    table = Table(target, "predictions", "share")
    for label, count in sorted(summary.labels[target].items(), key=lambda item: -item[1]):
        table.add_row(Text(label), f"{count:,}", f"{count / max(summary.predictions, 1):.1%}")
    Console().print(table)
    states = ", ".join(f"{count:,} {state}" for state, count in summary.states.items())
    severity = "" if summary.mean_severity is None else f", mean severity {summary.mean_severity:.0f} of 100"
    typer.echo(f"{summary.inputs:,} inputs: {states}; {summary.uncertain:,} uncertain{severity}")
    typer.echo(f"{summary.timings_s['wall']:.1f} s, {summary.files_per_s:.1f} files/s on {summary.runtime} {summary.variant}, "
               f"{summary.settings['workers']} decode processes, {summary.settings['threads']} engine threads → {name_of(result)}")
