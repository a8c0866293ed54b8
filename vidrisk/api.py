"""The functions of ``import vidrisk``, each the equivalent of the command of the same name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidrisk.decode.pool import DecodePool
from vidrisk.inference.model import open_classifier
from vidrisk.inference.open_stages import writes_reports
from vidrisk.inference.predictor import Model
from vidrisk.jobs.ledger import resolve_choice
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.sources import find_inputs
from vidrisk.jobs.summary import Summary
from vidrisk.runtimes.contract.choices import LabelTask, Task
from vidrisk.runtimes.contract.errors import SettingsError, require

if TYPE_CHECKING:
    from vidrisk.export.gate.report import GateReport
    from vidrisk.export.trained import ExportOptions
    from vidrisk.jobs.evaluate import Evaluation
    from vidrisk.models.run import Run
    from vidrisk.runtimes.contract.bundle import Bundle

AnyPath = str | os.PathLike[str]


def load(
    path: AnyPath,
    *,
    runtime: str = "auto",
    variant: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
) -> Model:
    """Open a bundle or a run for prediction.

    Args:
        path: a bundle, or a run directory (which needs torch).
        runtime: the engine; ``auto`` takes the fastest one measured on this machine.
        variant: the precision; ``auto`` takes the fastest one that passed the gate.
        threads: threads of the engine; None leaves the number to the engine.
        workers: maximum number of decode processes; None takes one per core, at most 8.

    Raises:
        BundleError: the path is neither a bundle nor a run, or it is damaged.
        SettingsError: the runtime cannot read it.
    """
    return Model(open_classifier(Path(path), runtime=runtime, variant=variant, threads=threads), workers=workers)


def train(
    data: AnyPath,
    out: AnyPath,
    *,
    task: Task | None = None,
    backbone: str | None = None,
    config: AnyPath | None = None,
    settings: Mapping[str, object] | None = None,
    start: AnyPath | None = None,
    resume: bool = False,
    strict: bool = False,
    tune: int | None = None,
    tune_minutes: float | None = None,
) -> Run:
    """Train LoRA and the head jointly, and write a run.

    Args:
        data: a folder with one sub-folder per class, a folder of UCF101 or Something-Something V2, or a manifest; for
            reports a table of cases, or conversations.
        out: new folder for the run.
        task: ``action``, ``risk`` or ``report``; None takes ``action``.
        backbone: ``efficientnet-lite0``, a Hugging Face hub id, or a local folder.
        config: a YAML file of settings.
        settings: single settings by their dotted names, such as ``{"optim.epochs": 3}``.
        start: a finished run to start from: its weights are merged, and its settings, except those about its data,
            apply unless others are given.
        resume: continue an unfinished run.
        strict: refuse data with the same clips in several splits, and data sets that list missing files.
        tune: number of settings to try by cross-validation on the training split before the run is trained with the
            chosen ones, 2 to 200, including the default ones. Settings from ``config`` and ``settings`` stay fixed.
        tune_minutes: start no trial that would not finish within this time.

    Raises:
        DataError: the data cannot be used.
        SettingsError: a setting is invalid.
        MissingExtra: torch is not installed.
    """
    require("torch", "train")
    from vidrisk.models.given_settings import collect_given_names
    from vidrisk.models.run import open_start
    from vidrisk.train.train_data import train_data
    from vidrisk.train.tune_space import tuning_from_options

    base, chosen = open_start(start, config, settings=settings, task=task, backbone=backbone)
    search = tuning_from_options(
        tune, tune_minutes, collect_given_names(None if config is None else Path(config), (), settings or ())
    )
    return train_data(Path(data), chosen, Path(out), start=base, resume=resume, strict=strict, tune=search)


def export(
    model: AnyPath,
    out: AnyPath,
    options: ExportOptions | None = None,
    *,
    int8: bool = False,
    calib: AnyPath | None = None,
    val: AnyPath | None = None,
    labels: AnyPath | None = None,
    pixel: AnyPath | None = None,
    checks: Mapping[AnyPath, str] | None = None,
    from_hf: bool = False,
    task: LabelTask | None = None,
    vendor: AnyPath | None = None,
    dynamic_vision: AnyPath | None = None,
) -> tuple[Bundle, GateReport]:
    """Export a run, or a model trained elsewhere, as a bundle that passed the gate.

    Args:
        model: a run that ``train`` wrote, an ONNX classifier of images, or a Hugging Face folder.
        out: new folder for the bundle.
        options: export options; None takes the defaults, with ``int8``.
        int8: also make a quantised variant; not allowed together with ``options``, which have their own field for it.
        calib: labelled data to calibrate on instead of the run's training split.
        val: labelled data for the gate instead of the run's validation split.
        labels: labels of an ONNX classifier in the order of its outputs: a file with one per line, or YAML or JSON for
            several outputs.
        pixel: a YAML file with the pixel preprocessing of an ONNX classifier; None determines it from ``val``.
        checks: images, each with the label that the classifier must predict.
        from_hf: ``model`` is a folder with a Hugging Face classifier of images or videos.
        task: the task that ``calib`` and ``val`` are labelled for, if ``model`` is not a run; None takes ``risk``.
        vendor: new folder for the files that the toolchains of Hailo, Rockchip, Qualcomm and Core ML take; None writes
            none.
        dynamic_vision: new folder for Qwen-VL's vision tower as one ONNX graph for images and videos of any size; None
            writes none.

    Raises:
        GateRefused: a hop lost more than allowed.
        SettingsError: an argument does not apply to this kind of model, or one is missing.
        BundleError, DataError, MissingExtra: see the message.
    """
    for module in ("torch", "onnx", "onnxscript"):
        require(module, "export")
    from vidrisk.data import load_table
    from vidrisk.export.trained import ExportOptions
    from vidrisk.jobs.foreign import foreign_model_from_settings
    from vidrisk.jobs.model_export import check_folders, export_model
    from vidrisk.models.run import Run

    if options is not None and int8:
        raise SettingsError("int8 beside options", fix="say it in the options: ExportOptions(int8=True)")
    path, options = Path(model), options or ExportOptions(int8=int8)
    if calib is not None and not options.int8 and vendor is None:
        raise SettingsError("calib without int8", fix="add int8=True, or leave calib out")
    foreign = foreign_model_from_settings(
        path,
        from_hf=from_hf,
        labels=None if labels is None else Path(labels),
        pixel=None if pixel is None else Path(pixel),
        checks=[(Path(image), label) for image, label in (checks or {}).items()],
        task=task,
        has_val=val is not None,
        qat_steps=options.qat_steps,
    )
    source = foreign or Run.open(path).config
    for_vendors, tower = (None if folder is None else Path(folder) for folder in (vendor, dynamic_vision))
    check_folders(source, Path(out), options, vendor=for_vendors, dynamic_vision=tower)
    multi_label = frozenset() if foreign else Run.open(path).contract.multi_targets
    calibration, validation = (
        None if data is None else load_table(Path(data), source.task, multi_label=multi_label) for data in (calib, val)
    )
    return export_model(
        path,
        Path(out),
        options,
        foreign=foreign,
        calib=calibration,
        val=validation,
        vendor=for_vendors,
        dynamic_vision=tower,
    )


def infer(
    model: AnyPath | Model,
    inputs: AnyPath | Iterable[AnyPath],
    out: AnyPath,
    settings: InferSettings | None = None,
    *,
    report: bool = True,
    **options: Any,
) -> Summary:
    """Predict files and folders into an output folder; the ledger records the outcome of every input.

    Args:
        model: a bundle, a run, or a loaded model, whose decode processes are then used. A bundle that writes reports
            takes single options only: ``workers``, ``file_timeout_s``, ``max_memory_mb``, ``resume``, ``parquet``, and
            ``question``, which is asked about each photo instead of writing a report.
        inputs: files, folders and globs; for a bundle that writes reports also lists of photos (``.txt``) and tables of
            cases.
        out: folder for the results.
        settings: settings of the run; None takes the defaults.
        report: also write ``report.html``.
        options: single fields of the settings, such as ``window_s``, ``resume`` or ``parquet``.

    Raises:
        DataError: no input was found.
        SettingsError: ``out`` cannot be used, or a setting is invalid.
        RuntimeFailure, Interrupted: ``out`` holds the finished part, and ``resume=True`` continues.
    """
    from vidrisk.report import build_report

    named: Sequence[AnyPath] = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    if not isinstance(model, Model) and writes_reports(Path(model)):
        return _infer_reports(Path(model), named, Path(out), settings, report=report, options=options)
    chosen, workers = _settings(settings, options)
    found = find_inputs(named)
    engine = resolve_choice(out, "auto", "auto") if chosen.resume else ("auto", "auto")
    with _open(model, chosen, workers, engine) as (opened, chosen, pool):
        summary = run_folder(opened.classifier, found, out, chosen, pool=pool, cards=len(found.paths) if report else 0)
        if report:
            build_report(out, pool)
    return summary


def _infer_reports(
    bundle: Path,
    inputs: Sequence[AnyPath],
    out: Path,
    settings: InferSettings | None,
    *,
    report: bool,
    options: Mapping[str, Any],
) -> Summary:
    from vidrisk.inference.open_reporter import open_reporter
    from vidrisk.jobs.case_inputs import find_cases
    from vidrisk.jobs.report_run import run_reports
    from vidrisk.jobs.report_settings import ReportSettings
    from vidrisk.report import build_report

    known = [field.name for field in fields(ReportSettings)]
    unknown = ["settings"] if settings is not None else [name for name in options if name not in known]
    if unknown:
        raise SettingsError(f"{unknown[0]!r} for a bundle that writes reports", allowed=", ".join(known))
    chosen = ReportSettings(**options)
    engine = resolve_choice(out, "auto", "auto") if chosen.resume else ("auto", "auto")
    with DecodePool(chosen.workers) as pool:
        with open_reporter(bundle, runtime=engine[0], variant=engine[1]) as reporter:
            summary = run_reports(
                reporter, find_cases(inputs, reporter.query(chosen.question).scheme), out, chosen, pool=pool
            )
        if report:
            build_report(out, pool)
    return summary


def evaluate(
    model: AnyPath | Model,
    data: AnyPath,
    settings: InferSettings | None = None,
    *,
    split: str | None = None,
    strict: bool = False,
    views: int = 1,
    mirror: bool = False,
    **options: Any,
) -> Evaluation:
    """Score a model on labelled data.

    Args:
        model: a bundle, a run, or a loaded model, whose decode processes are then used.
        data: a folder with one sub-folder per class or of a known data set, or a manifest.
        settings: settings of the run; None takes the defaults.
        split: score only the ``train``, ``val`` or ``test`` split of the data, or ``all``; None takes the test split,
            if the data has one.
        strict: refuse a data set that lists missing files.
        views: number of views per input whose predictions are averaged.
        mirror: also average over the mirror image of each view.
        options: single fields of the settings.

    Raises:
        DataError: the data cannot be used, or no sample can be read.
        SettingsError: a setting is invalid.
    """
    from vidrisk.data import load_table
    from vidrisk.inference.input_views import Views
    from vidrisk.jobs.evaluate import choose_scored
    from vidrisk.jobs.evaluate import evaluate as evaluate_table

    with _open(model, *_settings(settings, options)) as (opened, chosen, pool):
        contract = opened.contract
        table = load_table(Path(data), contract.task, min_labels=1, multi_label=contract.multi_targets, strict=strict)
        table = choose_scored(table, split, *(() if isinstance(model, Model) else (Path(model),)))
        return evaluate_table(opened.classifier, table, chosen, pool=pool, views=Views(views, mirror))


def _settings(settings: InferSettings | None, options: Mapping[str, Any]) -> tuple[InferSettings, int | None]:
    """Return the settings with single fields replaced, and the requested number of workers, or None.

    Raises:
        SettingsError: an unknown field, or an invalid value.
    """
    known = [field.name for field in fields(InferSettings)]
    if unknown := [name for name in options if name not in known]:
        raise SettingsError(f"no setting {unknown[0]!r}", allowed=", ".join(known))
    return replace(settings or InferSettings(), **options), options.get(
        "workers", settings.workers if settings else None
    )


@contextmanager
def _open(
    model: AnyPath | Model, settings: InferSettings, workers: int | None, engine: tuple[str, str] = ("auto", "auto")
) -> Iterator[tuple[Model, InferSettings, DecodePool]]:
    """Open a model; yield it with the settings and the decode pool to use.

    A loaded model keeps its own decode pool unless another number of ``workers`` is requested. ``engine`` is the
    runtime and variant of a model that is not loaded yet.
    """
    if not isinstance(model, Model):
        with load(model, runtime=engine[0], variant=engine[1], workers=settings.workers) as loaded:
            yield loaded, settings, loaded.pool
    elif workers in (None, model.pool.workers):
        yield model, replace(settings, workers=model.pool.workers), model.pool
    else:
        with DecodePool(settings.workers) as pool:
            yield model, settings, pool
