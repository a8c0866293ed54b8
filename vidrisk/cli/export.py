"""``vidrisk export``: from a run, or a model trained elsewhere, to a bundle that passed the gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vidrisk.cli.tables import Encoding, Sheet
from vidrisk.runtimes.contract.choices import ExportTarget, LabelTask, OnlyVariant


def export(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="Run directory that `vidrisk train` made, or an ONNX classifier of images; with "
            "--from-hf, a folder with a Hugging Face image or video classifier.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--output", metavar="BUNDLE", show_default=False, help="New folder for the bundle.")
    ],
    int8: Annotated[bool, typer.Option("--int8", help="Also make an INT8 variant (explicit Q/DQ).")] = False,
    calib: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA", show_default="the run's training split", help="Labelled data to calibrate INT8 on."
        ),
    ] = None,
    val: Annotated[
        Path | None,
        typer.Option(metavar="DATA", show_default="the run's validation split", help="Labelled data for the gate."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Labels of an ONNX model, in the order of its outputs: one per line, or YAML or "
            "JSON for several outputs.",
        ),
    ] = None,
    pixel: Annotated[
        Path | None,
        typer.Option(
            metavar="YAML",
            show_default="determined with --val",
            help="Pixel preprocessing of an ONNX model: scale, or mean and std; channels, resize, height, width.",
        ),
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGE=LABEL",
            help="An image or a clip, and the label that the model must predict; may be repeated.",
        ),
    ] = None,
    from_hf: Annotated[
        bool, typer.Option("--from-hf", help="MODEL is a folder with a Hugging Face classifier.")
    ] = False,
    task: Annotated[
        LabelTask | None,
        typer.Option(show_default="risk", help="Task that --calib and --val are labelled for, if MODEL is not a run."),
    ] = None,
    vendor: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            show_default=False,
            help="Also write the input files for the toolchains of Hailo, Rockchip, Qualcomm and Core ML: "
            "plain ONNX files, calibration frames, expected outputs.",
        ),
    ] = None,
    dynamic_vision: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            show_default=False,
            help="Also write Qwen-VL's vision tower for other programs: one ONNX graph for "
            "images and videos of any size.",
        ),
    ] = None,
    gguf: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Also write the merged language model of a run that writes reports as a GGUF file, for llama.cpp.",
        ),
    ] = None,
    merged: Annotated[
        bool,
        typer.Option(
            "--merged",
            help="Instead of a bundle, write the vision-language model with its adapters merged, as a Hugging Face "
            "folder that servers such as vLLM can load.",
        ),
    ] = False,
    encoding: Encoding = None,
    sheet: Sheet = None,
    calib_samples: Annotated[int, typer.Option(min=16, metavar="N", help="Samples to calibrate on.")] = 128,
    max_drop: Annotated[
        float, typer.Option(min=0, max=100, metavar="POINTS", help="Points of top-1 that INT8 or FP16 may lose.")
    ] = 1.0,
    max_confidence_drop: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=100,
            metavar="POINTS",
            help="Percentage points that INT8 or FP16 may change the confidence of an unchanged answer.",
        ),
    ] = 5.0,
    allow_drop: Annotated[
        bool,
        typer.Option(
            "--allow-drop", help="Ship a variant even if it loses more or is not faster; the bundle records that."
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Refuse the export if INT8 is not worth its loss, instead of shipping floating point alone.",
        ),
    ] = False,
    trt: Annotated[
        bool,
        typer.Option(
            "--trt", help="Also make an FP16 variant, and make all variants for TensorRT: target gpu, jetson or any."
        ),
    ] = False,
    target: Annotated[
        ExportTarget | None,
        typer.Option(
            show_default="cpu; gpu with --trt",
            help="Hardware of the bundle: the INT8 kernels of CPUs and of TensorRT differ, and any makes both.",
        ),
    ] = None,
    openvino: Annotated[
        bool, typer.Option("--openvino", help="Also put OpenVINO's IR of every variant into the bundle.")
    ] = False,
    torch_program: Annotated[
        bool, typer.Option("--torch", help="Also put torch's ExportedProgram of the merged model into the bundle.")
    ] = False,
    search_s: Annotated[
        float | None,
        typer.Option(
            "--search-s",
            min=0,
            metavar="SECONDS",
            show_default="180",
            help="Time limit of the search of --int8 for the blocks to keep in floating point.",
        ),
    ] = None,
    qat_steps: Annotated[
        int, typer.Option(min=0, metavar="N", help="First fine-tune for N steps with INT8 rounding.")
    ] = 0,
    only: Annotated[
        OnlyVariant | None,
        typer.Option(show_default="every variant", help="Ship only this variant; int8 includes mixed precision."),
    ] = None,
    no_golden: Annotated[
        bool,
        typer.Option(
            "--no-golden", help="Put no validation pictures into the bundle; `vidrisk verify` is then not possible."
        ),
    ] = False,
    coverage: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="How often the true label must be in the set of possible labels; an answer is uncertain unless it is "
            "the only one in the set.",
        ),
    ] = 0.9,
    json: Annotated[bool, typer.Option("--json", help="Print the gate's measurements as JSON.")] = False,
) -> None:
    """Merge, convert to ONNX, quantise, and compare every step with the one before it.

    A model trained elsewhere is an ONNX file with --labels, or a Hugging Face folder with --from-hf; --val is used to
    evaluate it, and to determine its pixel preprocessing.

    For a GPU or a Jetson, the layers that INT8 leaves in floating point are FP16, except norms, softmax and layers that
    the FP16 check on real frames finds; TensorRT, if it is installed, must be able to read every graph.

    If INT8 loses more than --max-drop, some blocks stay in floating point; the fastest such combination is searched
    for. A step that still loses more than allowed stops the export: exit code 3, and no bundle is written. INT8 that is
    not faster than floating point is left out with a message, and floating point ships; with --strict that is exit code
    3, too. A language model's weights in 4 or 8 bits ship beside floating point even if they are slower, if their files
    are at most half as large.
    """
    from vidrisk.cli.console import progress_bar
    from vidrisk.cli.views import print_gate, print_text_gate
    from vidrisk.runtimes.contract.errors import GateRefused, SettingsError, require

    if merged:
        _write_merged(
            model,
            out,
            others=any(
                (
                    int8,
                    calib,
                    val,
                    labels,
                    pixel,
                    check,
                    from_hf,
                    task,
                    vendor,
                    dynamic_vision,
                    trt,
                    gguf,
                    target,
                    openvino,
                    torch_program,
                    qat_steps,
                    only,
                )
            ),
        )
        return
    for module in ("torch", "onnx", "onnxscript"):
        require(module, "export")
    if openvino:
        require("openvino", "cpu")
    from vidrisk.data import Table, load_table
    from vidrisk.export.trained import ExportOptions, Format
    from vidrisk.jobs.foreign import foreign_model_from_settings
    from vidrisk.jobs.model_export import check_folders, export_model
    from vidrisk.jobs.report_export import export_reports
    from vidrisk.models.run import Run

    foreign = foreign_model_from_settings(
        model,
        from_hf=from_hf,
        labels=labels,
        pixel=pixel,
        checks=[_parse_check(text) for text in check or ()],
        task=task,
        has_val=val is not None,
        qat_steps=qat_steps,
    )
    if calib and not int8 and not vendor:
        raise SettingsError("--calib without --int8", fix="add --int8, or leave --calib out")
    if (encoding or sheet) and not any(path and path.is_file() for path in (calib, val)):
        raise SettingsError(
            "--encoding or --sheet without a manifest", allowed="with --calib or --val", fix="leave it out"
        )
    if trt and target == "cpu":
        raise SettingsError("--trt with --target cpu", allowed="gpu, jetson, any", fix="leave one of the two out")
    target = target or ("gpu" if trt else "cpu")
    asked: dict[Format, bool] = {"openvino": openvino, "torch": torch_program}
    also = tuple(name for name, wanted in asked.items() if wanted)
    options = ExportOptions(
        int8,
        max_drop,
        allow_drop,
        target,
        only,
        qat_steps=qat_steps,
        fp16=trt,
        also=also,
        max_confidence_drop=max_confidence_drop,
        strict=strict,
        coverage=coverage,
        golden=not no_golden,
    )
    if search_s is not None:
        options = replace(options, search_s=search_s)
    source = foreign or Run.open(model).config
    is_of_reports = not foreign and source.task == "report"
    if gguf and not is_of_reports:
        raise SettingsError("--gguf of a classifier", allowed="for runs of task report", fix="leave it out")
    if is_of_reports and (vendor or dynamic_vision):
        raise SettingsError(
            "--vendor or --dynamic-vision of a model that writes reports", allowed="for classifiers", fix="leave it out"
        )

    multi_label = frozenset() if foreign else Run.open(model).contract.multi_targets

    def table_of(path: Path | None) -> Table | None:
        if path is None:
            return None
        is_folder = path.is_dir()
        return load_table(
            path,
            source.task,
            multi_label=multi_label,
            encoding=None if is_folder else encoding,
            sheet=None if is_folder else sheet,
        )

    check_folders(source, out, options, vendor=vendor, dynamic_vision=dynamic_vision)
    try:
        with progress_bar() as advance:
            if is_of_reports:
                bundle, report = export_reports(
                    model,
                    out,
                    options,
                    calib=calib,
                    val=val,
                    calib_samples=calib_samples,
                    gguf=gguf,
                    on_progress=advance,
                )
                print_text_gate(report, as_json=json, bundle=bundle)
                return
            calibration, validation = table_of(calib), table_of(val)
            bundle, report = export_model(
                model,
                out,
                options,
                foreign=foreign,
                calib=calibration,
                val=validation,
                vendor=vendor,
                dynamic_vision=dynamic_vision,
                calib_samples=calib_samples,
                on_progress=advance,
            )
    except GateRefused as refusal:
        if refusal.report is not None:
            (print_text_gate if is_of_reports else print_gate)(refusal.report, as_json=json)
        raise
    print_gate(report, as_json=json, bundle=bundle)


def _write_merged(model: Path, out: Path, *, others: bool) -> None:
    """Write a merged model; ``others`` says whether options of a bundle are also given."""
    from vidrisk.cli.console import say
    from vidrisk.runtimes.contract.errors import SettingsError, require

    require("torch", "export")
    from vidrisk.models.vlm.merged_folder import write_merged

    if others:
        raise SettingsError("--merged with options of a bundle", allowed="--merged alone", fix="leave the others out")
    write_merged(model, out)
    say(f"merged model → {out}")


def _parse_check(text: str) -> tuple[Path, str]:
    """Parse ``IMAGE=LABEL``."""
    from vidrisk.runtimes.contract.errors import SettingsError

    path, equals, label = text.rpartition("=")
    if not equals or not path or not label:
        raise SettingsError(f"--check {text!r}", allowed="IMAGE=LABEL")
    return Path(path), label
