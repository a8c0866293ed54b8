"""From a run directory to a bundle: reads the run's samples, then hands modules and arrays to ``vidrisk.export``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidrisk.data import Table, load_table
from vidrisk.data.targets import truth_from_table
from vidrisk.export.export import ExportOptions, Trained, export_bundle
from vidrisk.export.gate import GateReport, Validation
from vidrisk.frames import read_clips
from vidrisk.run import Run
from vidrisk.runtimes.bundle import Bundle
from vidrisk.runtimes.contract import Contract
from vidrisk.runtimes.errors import BundleError, DataError, UnreadableError

log = logging.getLogger(__name__)

OnProgress = Callable[[str, int, int], None]
VALIDATION_SAMPLES = 512


def export_run(run_path: Path, out: Path, options: ExportOptions, *, calib: Path | None = None, calib_samples: int = 128,
               seed: int = 0, on_progress: OnProgress = lambda what, done, total: None) -> tuple[Bundle, GateReport]:
    """Export a run.

    Args:
        calib: labelled data to calibrate on instead of the run's own training split.
        calib_samples: samples to calibrate on.
        seed: of the choice of samples.

    Raises:
        BundleError: ``out`` exists, or the run is damaged.
        DataError: a run without validation samples, calibration data that holds test samples of the run, or nothing readable.
        GateRefused: a hop lost more than it may.
    """
    if out.exists():  # again in write_bundle; here before minutes of reading
        raise BundleError(f"{out} exists already", fix="choose another folder, or delete it first")
    run = Run.open(run_path)
    contract = run.contract
    splits = run.read_split()
    if not len(splits.of_split("val")):
        raise DataError(f"{run_path} has no validation samples to judge the export by", fix="train it on data with a val split")
    rng = np.random.default_rng(seed)
    judged, frames = _read(_some(splits.of_split("val"), VALIDATION_SAMPLES, rng), contract, "reading validation", on_progress)
    truth = truth_from_table(judged, contract.targets)
    validation = Validation(frames, truth, [sample.name for sample in judged.samples])
    calibration = np.empty((0, *contract.pixel.frame_shape), np.uint8)
    if options.int8:
        source = splits.of_split("train") if calib is None else _without_test_samples(load_table(calib, contract.task), splits)
        _, clips = _read(_some(source, calib_samples, rng), contract, "reading calibration", on_progress)
        flat = clips.reshape(-1, *contract.pixel.frame_shape)
        calibration = flat[np.sort(rng.permutation(len(flat))[: max(calib_samples, len(clips))])]
    model = run.load_classifier()
    backbone_config = getattr(model.encoder.backbone, "config", None)
    trained = Trained(model.encoder, model.head, contract, family=model.encoder.family, width=model.encoder.width,
                      backbone_config=backbone_config)
    return export_bundle(trained, out, validation, calibration, options, on_progress)


def _some(table: Table, count: int, rng: np.random.Generator) -> Table:
    chosen = sorted(rng.permutation(len(table))[:count])
    return table.with_samples(table.samples[i] for i in chosen)


def _without_test_samples(table: Table, splits: Table) -> Table:
    held_out = {sample.path for sample in splits.of_split("test").samples}
    overlap = [sample.name for sample in table.samples if sample.path in held_out]
    if overlap:
        raise DataError(f"{len(overlap)} calibration samples are in the run's test split, such as {overlap[0]}",
                        fix="calibrate on other data: the test split must stay unseen")
    return table


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
