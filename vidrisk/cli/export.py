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
        min=0, max=100, metavar="POINTS", help="Points of top-1 that INT8 or FP16 may lose.")] = 1.0,
    allow_drop: Annotated[bool, typer.Option(
        "--allow-drop", help="Ship it even if it loses more or is slower; the bundle records that.")] = False,
    trt: Annotated[bool, typer.Option(
        "--trt", help="Also make an FP16 variant, and all for TensorRT: target gpu, or jetson.")] = False,
    target: Annotated[Literal["cpu", "gpu", "jetson"] | None, typer.Option(
        show_default="cpu; gpu with --trt", help="What the bundle is to run on: INT8 kernels of processors and of TensorRT differ.",
    )] = None,
    openvino: Annotated[bool, typer.Option("--openvino", help="Also put OpenVINO's IR of every variant into the bundle.")] = False,
    torch_program: Annotated[bool, typer.Option(
        "--torch", help="Also put torch's ExportedProgram of the merged model into the bundle.")] = False,
    qat_steps: Annotated[int, typer.Option(
        min=0, metavar="N", help="Fine-tune so many steps with INT8's rounding, first.")] = 0,
    only: Annotated[Literal["fp32", "fp16", "int8"] | None, typer.Option(
        show_default="every variant", help="Ship this variant alone; int8 includes mixed precision.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what the gate measured as JSON.")] = False,
) -> None:
    """Merge, convert to ONNX, quantise, and compare every hop with the one before it.

    For a GPU or a Jetson, what INT8 leaves in floating point is FP16, but for norms, softmax and what the check of FP16 finds on
    real frames; TensorRT, where it is installed, must read every graph.

    INT8 that loses more than --max-drop keeps some blocks in floating point; the fastest such point is searched. A hop that
    still loses more than it may, or INT8 slower than floating point, stops the export: exit code 3, and no bundle is written.
    """
    from vidrisk.cli.console import progress_bar
    from vidrisk.cli.views import print_gate
    from vidrisk.runtimes.errors import GateRefused, SettingsError, require

    for module in ("torch", "onnx", "onnxscript", "optimum"):
        require(module, "export")
    if openvino:
        require("openvino", "cpu")
    from vidrisk.data import load_table
    from vidrisk.export.trained import ExportOptions, Format
    from vidrisk.exporting import export_run
    from vidrisk.run import Run

    if calib and not int8:
        raise SettingsError("--calib without --int8", fix="add --int8, or leave --calib out")
    if trt and target == "cpu":
        raise SettingsError("--trt with --target cpu", allowed="gpu, jetson", fix="leave one of the two out")
    target = target or ("gpu" if trt else "cpu")
    asked: dict[Format, bool] = {"openvino": openvino, "torch": torch_program}
    also = tuple(name for name, wanted in asked.items() if wanted)
    options = ExportOptions(int8, max_drop, allow_drop, target, only, qat_steps=qat_steps, fp16=trt, also=also)
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
