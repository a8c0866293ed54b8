"""The short summary that ``vidrisk infer`` prints."""

from __future__ import annotations

from pathlib import Path

from vidrisk.cli.console import say, say_aside, say_json, say_table
from vidrisk.frames.left_out import LeftOut
from vidrisk.jobs.progress import Pace
from vidrisk.jobs.summary import Summary


def note_from_pace(pace: Pace) -> str:
    return (
        f"{pace.files_per_s:.1f} files/s, {pace.clips_per_s:.1f} clips/s; {pace.decoded} frames decoded, "
        f"{pace.batched} in the batch; waiting for {pace.bottleneck}"
    )


def print_left_out(left_out: LeftOut) -> None:
    """Print on stderr which files of the folders are ignored."""
    if text := str(left_out):
        say_aside(f"left out: {text}")


def print_summary(summary: Summary, result: Path, *, as_json: bool) -> None:
    """Print the summary; ``result`` is the report or output folder to open next."""
    if as_json:
        say_json(summary.to_json())
        return
    for target in summary.targets[:1]:
        say_table(
            (target["name"], "predictions", "share"),
            (
                (label, f"{count:,}", f"{count / max(summary.predictions, 1):.1%}")
                for label, count in sorted(summary.labels[target["name"]].items(), key=lambda item: -item[1])
            ),
        )
    states = ", ".join(f"{count:,} {state}" for state, count in summary.states.items())
    severity = "" if summary.mean_severity is None else f", mean severity {summary.mean_severity:.0f} of 100"
    uncertain = "–" if summary.uncertain is None else f"{summary.uncertain:,}"
    found = f"{uncertain} uncertain{severity}" if summary.targets else f"{summary.predictions:,} answers"
    say(f"{summary.inputs:,} inputs: {states}; {found}")
    if summary.no_threshold:
        say(f"no threshold: {summary.why_unknown}")
    say(
        f"{summary.timings_s['wall']:.1f} s, {summary.files_per_s:.1f} files/s on {summary.runtime} {summary.variant}, "
        f"{summary.settings['workers']} decode processes, {summary.settings['threads']} engine threads → {result}"
    )
