"""Tables that commands print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from vidrisk.evaluate import Evaluation
    from vidrisk.export.report import GateReport
    from vidrisk.runtimes.bundle import Bundle


def print_training(run: Path, *, as_json: bool) -> None:
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps(metrics, ensure_ascii=False))
        return
    table = Table("split", "target", "samples", "top-1", "macro-F1", "mAP", "ECE")
    for split in ("val", "test"):
        for target, scores in metrics.get(split, {}).items():
            table.add_row(split, target, *_scores(scores))
    Console().print(table)
    typer.echo(f"best epoch {metrics['best_epoch']} of {len(metrics['epochs'])}, {metrics['seconds']:.0f} s, "
               f"{len(metrics['unreadable'])} unreadable samples → {run}")


def print_evaluation(evaluation: Evaluation, *, as_json: bool) -> None:
    if as_json:
        typer.echo(evaluation.to_json())
        return
    summary = Table("target", "samples", "top-1", "macro-F1", "mAP", "ECE")
    classes = Table("target", "class", "precision", "recall", "F1", "samples")
    for target, metrics in evaluation.metrics.items():
        summary.add_row(target, *_scores(metrics.to_dict()))
        for one in metrics.per_class:
            classes.add_row(target, Text(one.label), f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}", str(one.support))
    console = Console()
    console.print(summary)
    console.print(classes)
    typer.echo(f"{evaluation.runtime} {evaluation.variant}; {len(evaluation.unreadable)} samples could not be read")


def print_gate(report: GateReport, *, as_json: bool, bundle: Bundle | None = None) -> None:
    """What every hop lost, and where the bundle is; without a bundle the gate has refused."""
    if as_json:
        where = {"bundle": str(bundle.root), "digest": bundle.digest} if bundle else {"bundle": None}
        typer.echo(json.dumps({**where, **report.to_dict()}, ensure_ascii=False))
        return
    console = Console()
    hops = Table("hop", "runtime", "agreement", "drop in points (95 %)", "largest Δ logit", "gate")
    for hop in report.hops:
        worst = max(hop.changes, key=lambda change: change.drop_points, default=None)
        interval = f" ({worst.interval_points[0]:+.1f} … {worst.interval_points[1]:+.1f})" if worst else ""
        verdict = Text(hop.reason, style="yellow" if hop.passed else "red") if hop.reason else "passed"
        compared = (f"{hop.agreement:.1%}", f"{hop.largest_logit_difference:.2g}") if hop.agreement >= 0 else ("–", "–")
        hops.add_row(hop.name, hop.runtime, compared[0], f"{hop.drop_points:+.2f}{interval}", compared[1], verdict)
    console.print(hops)
    if report.search:
        kept = [row for row in report.search if row["precision"] == "float"]
        blocks = Table("block in floating point", "share of INT8's noise", "costs ms/frame")
        for row in kept:
            blocks.add_row(Text(row["block"]), f"{row['noise_share']:.1%}", f"{row['float_ms']:.3f}")
        console.print(blocks)
        typer.echo(f"{len(report.search) - len(kept)} of {len(report.search)} blocks are in INT8")
    if report.laps:
        laps = Table("variant", "runtime", "ms/frame", "frames/s", "MB")
        for lap in report.laps:
            laps.add_row(lap.variant, lap.runtime, f"{lap.ms_per_frame:.2f}", f"{lap.frames_per_s:.0f}", f"{lap.bytes / 1e6:.1f}")
        console.print(laps)
    if report.note:
        typer.echo(report.note)
    if bundle is None:
        return
    size_mb = sum(file.bytes for file in bundle.manifest.files.values()) / 1e6
    typer.echo(f"{', '.join(bundle.passed)} → {bundle.root} ({size_mb:.1f} MB); the report: {bundle.root / 'gate.html'}")


def _scores(scores: dict[str, Any]) -> tuple[str, ...]:
    return (str(scores["n"]), f"{scores['top1']:.1%}", f"{scores['macro_f1']:.3f}", f"{scores['mean_average_precision']:.3f}",
            f"{scores['ece']:.3f}")
