"""Export of a model with its optional companions: files for vendor toolchains, a dynamic vision tower."""

from __future__ import annotations

from pathlib import Path

from vidrisk.data import Table
from vidrisk.export.gate.report import GateReport
from vidrisk.export.trained import ExportOptions
from vidrisk.jobs.dynamic_vision import dynamic_vision_folder
from vidrisk.jobs.export import export_run
from vidrisk.jobs.foreign import ForeignModel, export_foreign
from vidrisk.jobs.vendor import write_vendor
from vidrisk.models.config import TrainConfig
from vidrisk.models.families import Source, family_of
from vidrisk.runtimes.contract.bundle import Bundle, check_vacant
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress


def check_folders(
    source: ForeignModel | TrainConfig,
    out: Path,
    options: ExportOptions,
    *,
    vendor: Path | None,
    dynamic_vision: Path | None,
) -> None:
    """Refuse folders that cannot be written beside a bundle, before minutes of work.

    Args:
        source: a model that was trained elsewhere, or the configuration of a run.
        out: bundle to write.
        options: of the export.
        vendor: folder for vendor files, or None.
        dynamic_vision: folder for the vision tower, or None.

    Raises:
        SettingsError: two folders are the same, are nested, or do not fit the model or the options.
        BundleError: one exists.
    """
    if vendor is not None:
        if options.only not in (None, "fp32"):
            raise SettingsError(f"vendor with only {options.only}", allowed="fp32", fix="leave one of the two out")
        if isinstance(source, TrainConfig) and family_of(Source(source.backbone)).build is not None:
            raise SettingsError(
                "vendor of a vision-language model",
                allowed="encoders, whose graphs take nothing but frames",
                fix="leave it out",
            )
        if _is_nested(vendor, out):
            raise SettingsError(
                "vendor names a folder that the bundle uses", fix="choose another folder for one of the two"
            )
        check_vacant(vendor)
    if dynamic_vision is not None:
        if not isinstance(source, TrainConfig):
            raise SettingsError(
                "dynamic_vision without a run", allowed="a run of Qwen2.5-VL or Qwen3-VL", fix="leave it out"
            )
        if any(_is_nested(dynamic_vision, folder) for folder in (out, vendor) if folder is not None):
            raise SettingsError(
                "dynamic_vision names a folder that the bundle or vendor uses", fix="choose another folder"
            )
        check_vacant(out)
        check_vacant(dynamic_vision)
        if not family_of(Source(source.backbone, local_only=True)).has_dynamic_vision:
            raise SettingsError(
                f"the vision tower of {source.backbone!r} takes frames of one size",
                allowed="a run of Qwen2.5-VL or Qwen3-VL",
                fix="do without the dynamic vision tower",
            )


def export_model(
    model: Path,
    out: Path,
    options: ExportOptions,
    *,
    foreign: ForeignModel | None,
    calib: Table | None,
    val: Table | None,
    vendor: Path | None,
    dynamic_vision: Path | None,
    calib_samples: int = 128,
    on_progress: OnProgress = ignore_progress,
) -> tuple[Bundle, GateReport]:
    """Export a run, or a model that was trained elsewhere.

    Args:
        model: the run or the foreign model.
        out: bundle to write.
        options: of the export.
        foreign: the model, if it is not a run; then ``val`` judges it.
        calib: labelled samples to calibrate on.
        val: labelled samples for the gate.
        vendor: folder for vendor toolchains; None writes none. Without ``calib``, the validation samples of a foreign
            model or the training split of a run are used for calibration.
        dynamic_vision: folder for the vision tower as a graph for images of any size; None writes none.
        calib_samples: number of samples to calibrate on.
        on_progress: reports the steps.

    Raises:
        As ``export_run``, ``export_foreign``, ``write_vendor`` and ``dynamic_vision_folder``.
    """
    with dynamic_vision_folder(model, dynamic_vision, on_progress):
        if foreign and val is not None:
            bundle, report = export_foreign(
                foreign, out, options, val=val, calib=calib, calib_samples=calib_samples, on_progress=on_progress
            )
        else:
            bundle, report = export_run(
                model, out, options, calib=calib, val=val, calib_samples=calib_samples, on_progress=on_progress
            )
    if vendor is not None:
        write_vendor(bundle, val if calib is None and foreign else calib, model, vendor, calib_samples)
    return bundle, report


def _is_nested(one: Path, other: Path) -> bool:
    """Tell whether the folders are the same or one contains the other."""
    one, other = one.resolve(), other.resolve()
    return one.is_relative_to(other) or other.is_relative_to(one)
