"""``vidrisk export``: a run in, a gated bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def export(
    run: Annotated[Path, typer.Argument(
        metavar="RUN", show_default=False, help="Run directory that `vidrisk train` made.")],
    out: Annotated[Path, typer.Option(
        "-o", "--output", metavar="BUNDLE", show_default=False, help="New folder for the bundle.")],
    int8: Annotated[bool, typer.Option("--int8", help="Also make an INT8 variant (explicit Q/DQ).")] = False,
    calib: Annotated[Path | None, typer.Option(
        metavar="DATA", show_default="the run's training split", help="Labelled data to calibrate INT8 on.")] = None,
    val: Annotated[Path | None, typer.Option(
        metavar="DATA", show_default="the run's validation split", help="Labelled data for the gate.")] = None,
    calib_samples: Annotated[int, typer.Option(min=16, metavar="N", help="Samples to calibrate on.")] = 128,
    max_drop: Annotated[float, typer.Option(
        min=0, max=100, metavar="POINTS", help="Points of top-1 that INT8 may lose.")] = 1.0,
    only: Annotated[Literal["fp32", "int8"] | None, typer.Option(
        show_default="every variant", help="Ship this variant alone.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what the gate measured as JSON.")] = False,
) -> None:
    """Merge, convert to ONNX, calibrate INT8, and compare every hop with the one before it.

    A hop that loses more than it may stops the export: exit code 3, and nothing is written.
    """
    from vidrisk.cli.console import progress_bar
    from vidrisk.cli.views import print_gate
    from vidrisk.runtimes.errors import GateRefused, require

    for module in ("torch", "onnx", "onnxscript", "optimum"):
        require(module, "export")
    from vidrisk.data import load_table
    from vidrisk.export.export import ExportOptions
    from vidrisk.exporting import export_run
    from vidrisk.run import Run

    options = ExportOptions(int8, max_drop, only)
    task = Run.open(run).config.task
    tables = [load_table(path, task) if path else None for path in (calib, val)]
    try:
        with progress_bar() as advance:
            bundle, report = export_run(run, out, options, calib=tables[0], val=tables[1],
                                        calib_samples=calib_samples, on_progress=advance)
    except GateRefused as refusal:
        print_gate(refusal.report, as_json=json)
        raise
    print_gate(report, as_json=json, bundle=bundle)
