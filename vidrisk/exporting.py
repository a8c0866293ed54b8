"""From a run directory to a bundle: reads the run's samples, then hands modules and arrays to ``vidrisk.export``."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidrisk.data import Table
from vidrisk.data.targets import truth_from_table
from vidrisk.export.export import ExportOptions, OnProgress, Trained, export_bundle
from vidrisk.export.gate import GateReport, Validation
from vidrisk.frames import read_clips
from vidrisk.run import Run
from vidrisk.runtimes.bundle import Bundle, check_vacant
from vidrisk.runtimes.contract import Contract
from vidrisk.runtimes.errors import DataError, UnreadableError

log = logging.getLogger(__name__)

VALIDATION_SAMPLES = 512
MAX_VALIDATION_BYTES = 2 * 2**30


def export_run(run_path: Path, out: Path, options: ExportOptions, *, calib: Table | None = None, val: Table | None = None,
               calib_samples: int = 128, seed: int = 0,
               on_progress: OnProgress = lambda what, done, total: None) -> tuple[Bundle, GateReport]:
    """Export a run.

    Args:
        calib: labelled samples to calibrate on instead of the run's training split; what is in the run's val and test splits,
            or in ``val``, is left out.
        val: labelled samples for the gate instead of the run's validation split.
        calib_samples: samples to calibrate on.
        seed: of the choice of samples.

    Raises:
        BundleError: ``out`` exists, or the run is damaged.
        DataError: no validation or calibration samples, or none that can be read.
        GateRefused: a hop lost more than it may.
    """
    check_vacant(out)  # before minutes of reading
    run = Run.open(run_path)
    contract = run.contract
    splits = run.read_split()
    val = splits.of_split("val") if val is None else val
    if not len(val):
        raise DataError(f"{run_path} has no validation samples to judge the export by", fix="give labelled data with --val")
    rng = np.random.default_rng(seed)
    most = max(1, MAX_VALIDATION_BYTES // (contract.frames * math.prod(contract.pixel.frame_shape)))
    judged, frames = _read(_some(val, min(VALIDATION_SAMPLES, most), rng), contract, "reading validation", on_progress)
    truth = truth_from_table(judged, contract.targets)
    validation = Validation(frames, truth, [sample.name for sample in judged.samples])
    calibration = np.empty((0, *contract.pixel.frame_shape), np.uint8)
    if options.int8:
        source = _without(splits.of_split("train") if calib is None else calib, val, splits.of_split("val"),
                          splits.of_split("test"))
        _, clips = _read(_some(source, calib_samples, rng), contract, "reading calibration", on_progress)
        flat = clips.reshape(-1, *contract.pixel.frame_shape)
        calibration = flat[np.sort(rng.permutation(len(flat))[:calib_samples])]
    model = run.load_classifier()
    backbone_config = getattr(model.encoder.backbone, "config", None)
    options = replace(options, source={"run": run_path.resolve().name, "backbone": run.config.backbone, "digest": run.digest})
    trained = Trained(model.encoder, model.head, contract, family=model.encoder.family, width=model.encoder.width,
                      backbone_config=backbone_config)
    return export_bundle(trained, out, validation, calibration, options, on_progress)


def _some(table: Table, count: int, rng: np.random.Generator) -> Table:
    chosen = sorted(rng.permutation(len(table))[:count])
    return table.with_samples(table.samples[i] for i in chosen)


def _without(table: Table, *held_out: Table) -> Table:
    """The samples that are in none of the held-out tables: what judges a model must not have shaped it."""
    paths = {sample.path for part in held_out for sample in part.samples}
    kept = table.with_samples(sample for sample in table.samples if sample.path not in paths)
    if len(kept) < len(table):
        log.warning("%d of %d calibration samples are held out for validation or test, and left out",
                    len(table) - len(kept), len(table))
    return kept


def _read(table: Table, contract: Contract, what: str, on_progress: OnProgress) -> tuple[Table, npt.NDArray[np.uint8]]:
    """Frames ``uint8 (N, T, H, W, 3)`` of the readable samples, and the table of these alone."""
    kept, clips, reasons = [], [], []
    for done, sample in enumerate(table.samples):
        on_progress(what, done, len(table))
        try:
            clips.append(next(read_clips(sample.path, contract.pixel, contract.time)).frames)
        except UnreadableError as error:
            reasons.append(str(error))
            continue
        kept.append(sample)
    if not clips:
        raise DataError(f"{what}: none of {len(table)} samples can be read" + (f"; the first: {reasons[0]}" if reasons else ""),
                        fix="give data with --calib" if "calibration" in what else "the run's data must still be in its place")
    if reasons:
        log.warning("%s: %d samples cannot be read and are left out; the first: %s", what, len(reasons), reasons[0])
    return table.with_samples(kept), np.stack(clips)
