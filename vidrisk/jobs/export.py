"""Export of a run directory to a bundle: reads the run's samples, then calls ``vidrisk.export``."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.data import Table
from vidrisk.data.choice import Shown, draw_samples, make_balanced_order
from vidrisk.data.table import Sample
from vidrisk.data.targets import truth_from_table
from vidrisk.export.export import export_bundle
from vidrisk.export.gate.outputs import Validation
from vidrisk.export.gate.report import GateReport
from vidrisk.export.quantize.feeds import MIN_CALIBRATION
from vidrisk.export.trained import ExportOptions, Trained, TrainedStage
from vidrisk.files.cache import array_cache
from vidrisk.frames.cached import CachedClips
from vidrisk.models.run import METRICS, Run
from vidrisk.models.trainable import TrainableModel
from vidrisk.models.weights import COPY_WHOLE
from vidrisk.runtimes.chain import frames_of
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.bundle import Bundle, check_vacant
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import DataError, UnreadableError
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.runtimes.contract.stages import Stage

log = logging.getLogger(__name__)

VALIDATION_SAMPLES = 512
MAX_VALIDATION_BYTES = 2 * 2**30
MAX_OUTPUT_BYTES = 2**29  # of all stages, float32; the gate holds the outputs of several models at a time
FRAMES_PER_CLIP = 4  # of a calibration clip: its other frames are very similar


def export_run(
    run_path: Path,
    out: Path,
    options: ExportOptions,
    *,
    calib: Table | None = None,
    val: Table | None = None,
    calib_samples: int = 128,
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> tuple[Bundle, GateReport]:
    """Export a run.

    Args:
        run_path: directory of the run.
        out: bundle to write.
        options: of the export.
        calib: labelled samples to calibrate on instead of the run's training split; the gate's validation samples are
            left out.
        val: labelled samples for the gate instead of the run's validation split.
        calib_samples: number of samples to calibrate on, balanced over classes and sources.
        seed: of the choice of samples.
        on_progress: reports the steps.

    Raises:
        BundleError: ``out`` exists, or the run is damaged.
        DataError: no validation samples, fewer than 16 calibration samples that can be read, calibration samples of a
            test split, or validation samples of the training split.
        GateRefused: a hop lost more than allowed.
    """
    check_vacant(out)  # before minutes of reading
    run = Run.open(run_path)
    contract = run.contract
    clips = CachedClips(contract, array_cache())
    splits = run.read_split()
    judged = splits.of_split("val") if val is None else _choose_validation(val, splits)
    if not len(judged):
        raise DataError(f"{run_path} has no validation samples to judge the export by", fix="give labelled data as val")
    model = run.load_classifier()
    stages = stages_from_model(model, contract)
    drawn_from = _draw_judges(judged, contract, [each.stage for each in stages], seed)
    validation = _validation(drawn_from, clips, on_progress)
    frames = None
    if options.int8:
        source = _calibration_source(splits.of_split("train") if calib is None else calib, judged, splits)
        frames = ReadFrames(
            readable_samples(make_balanced_order(source, seed), calib_samples, clips, on_progress), clips
        )
    recorded, recorded_on, unreadable = _read_recorded(run)
    options = replace(
        options, source={"run": run_path.resolve().name, "backbone": run.config.backbone, "digest": run.digest}
    )
    learnt = None
    if options.qat_steps:
        table = _without_judges(splits.of_split("train"), judged)
        learnt = ReadClips(tuple(s for s in table.samples if s.title not in unreadable), clips)
    trained = Trained(stages, contract, recorded=recorded if val is None else {}, recorded_on=recorded_on, clips=learnt)
    return export_bundle(trained, out, validation, frames, options, on_progress)


def export_trained(
    trained: Trained,
    out: Path,
    options: ExportOptions,
    val: Table,
    calib: Table | None,
    calib_samples: int,
    seed: int,
    on_progress: OnProgress,
) -> tuple[Bundle, GateReport]:
    """Export stages that have no run, judged and calibrated on the given data.

    Raises:
        DataError: no validation samples, calibration samples of a test split, or fewer than 16 that can be read.
        GateRefused: a hop lost more than allowed.
    """
    clips = CachedClips(trained.contract, array_cache())
    judged = _draw_judges(_own_split(val, "val"), trained.contract, trained.specs, seed)
    validation = _validation(judged, clips, on_progress)
    frames = None
    if options.int8 and calib is not None:
        source = _calibration_source(_own_split(calib, "train"), judged, None)
        frames = ReadFrames(
            readable_samples(make_balanced_order(source, seed), calib_samples, clips, on_progress), clips
        )
    return export_bundle(trained, out, validation, frames, options, on_progress)


def _own_split(table: Table, split: str) -> Table:
    """Return the split of a table, or the whole table if it is not split."""
    return table.of_split(split) if any(sample.split for sample in table.samples) else table


def _draw_judges(table: Table, contract: Contract, stages: Sequence[Stage], seed: int) -> Table:
    """Draw validation samples, as many as fit into memory with their pixels and the stages' outputs."""
    pixels = contract.frames * math.prod(contract.pixel.frame_shape)
    outputs = sum(
        4 * math.prod(map(int, spec.shape[1:])) * contract.frames // frames_of(stage, contract.frames)
        for stage in stages
        for spec in stage.outputs
    )
    most = max(1, min(MAX_VALIDATION_BYTES // pixels, MAX_OUTPUT_BYTES // outputs))
    return draw_samples(table, min(VALIDATION_SAMPLES, most), seed)


def stages_from_model(model: TrainableModel, contract: Contract) -> tuple[TrainedStage, ...]:
    """Return the stages of a model trained by vidrisk, in the form that an export needs."""
    return tuple(
        TrainedStage(each.stage, each.module, each.constants, each.example, each.quantization)
        for each in model.stages(contract)
    )


@dataclass(frozen=True)
class ReadClips:
    """Clips ``uint8 (T, H, W, 3)`` of samples that training could read, read on demand.

    Implements ``export.trained.Clips``.
    """

    samples: tuple[Sample, ...]
    clips: CachedClips

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]:
        sample = self.samples[index]
        return self.clips.frames(sample.path, self.clips.contract.frames, sample.interval)


@dataclass(frozen=True)
class ReadFrames:
    """Frames of photos and clips, read on demand one sample at a time.

    Implements ``export.quantize.feeds.CalibrationFrames``.
    """

    samples: tuple[Sample, ...]
    clips: CachedClips
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.clips.contract.digest.encode())
        for sample in self.samples:
            digest.update(f"{self.clips.digest(sample.path)} {sample.interval}".encode())
        object.__setattr__(self, "digest", digest.hexdigest())

    @property
    def count(self) -> int:
        return len(self.samples) * min(FRAMES_PER_CLIP, self.clips.contract.frames)

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        for sample in self.samples:
            yield from self.clips.frames(sample.path, FRAMES_PER_CLIP, sample.interval)

    def windows(self) -> Iterator[npt.NDArray[np.uint8]]:
        for sample in self.samples:
            yield self.clips.frames(sample.path, self.clips.contract.frames, sample.interval)


def _choose_validation(table: Table, splits: Table) -> Table:
    """Return the samples to judge by from given data: its own val split if it has one.

    Raises:
        DataError: some of them are samples that the run was trained on.
    """
    table = _own_split(table, "val")
    trained = Shown(splits.of_split("train"))
    known = sum(sample in trained for sample in table.samples)
    if known:
        raise DataError(
            f"{known} of {len(table)} validation samples are in the run's training split",
            fix="leave val out to take the run's validation split, or give other data",
        )
    return table


def _calibration_source(table: Table, judged: Table, splits: Table | None) -> Table:
    """Return the samples that may be used for calibration.

    Raises:
        DataError: some are in the run's test split, or in a test split of their own data.
    """
    tested = Shown(table.with_samples(()) if splits is None else splits.of_split("test"))
    wrong = sum(sample in tested or sample.split == "test" for sample in table.samples)
    if wrong:
        raise DataError(
            f"{wrong} of {len(table)} calibration samples are in a test split",
            fix="leave calib out to take the training split, or give other data",
        )
    return _without_judges(table, judged)


def _without_judges(table: Table, judged: Table) -> Table:
    """Remove the samples that judge a model: they must not have influenced it.

    Raises:
        DataError: nothing is left.
    """
    judges = Shown(judged)
    kept = table.with_samples(sample for sample in table.samples if sample not in judges)
    if len(table) and not len(kept):
        raise DataError(
            f"all {len(table)} samples are validation samples of the gate",
            allowed="samples that are not in val",
            fix="give data as calib that are not in val",
        )
    if len(kept) < len(table):
        left_out = len(table) - len(kept)
        log.warning("%d of %d samples are validation samples of the gate and are left out", left_out, len(table))
    return kept


def readable_samples(
    samples: list[Sample], count: int, clips: CachedClips, on_progress: OnProgress
) -> tuple[Sample, ...]:
    """Return the first ``count`` samples that can be read.

    Those that cannot are replaced by the next ones, and logged.
    """
    kept: list[Sample] = []
    reasons: list[str] = []
    for sample in samples:
        if len(kept) == count:
            break
        on_progress("reading calibration", len(kept), count)
        try:
            clips.frames(sample.path, FRAMES_PER_CLIP, sample.interval)
        except UnreadableError as error:
            reasons.append(str(error))
        else:
            kept.append(sample)
    _say(reasons, "calibration", len(samples), fix="give data as calib", left=len(kept))
    if len(kept) < MIN_CALIBRATION:
        raise DataError(
            f"{len(kept)} calibration samples",
            allowed=f"at least {MIN_CALIBRATION}",
            fix="give more as calib, or a greater calib_samples",
        )
    return tuple(kept)


def _validation(table: Table, clips: CachedClips, on_progress: OnProgress) -> Validation:
    contract = clips.contract
    kept: list[Sample] = []
    reasons: list[str] = []
    frames = np.empty((len(table), contract.frames, *contract.pixel.frame_shape), np.uint8)
    for done, sample in enumerate(table.samples):
        on_progress("reading validation", done, len(table))
        try:
            frames[len(kept)] = clips.frames(sample.path, contract.frames, sample.interval)
        except UnreadableError as error:
            reasons.append(str(error))
            continue
        kept.append(sample)
    _say(reasons, "validation", len(table), fix="the run's data must still be at its original path", left=len(kept))
    truth = truth_from_table(table.with_samples(kept), contract.targets)
    return Validation(frames[: len(kept)], truth, [sample.title for sample in kept])


def _say(reasons: list[str], what: str, total: int, *, fix: str, left: int) -> None:
    if not left:
        raise DataError(
            f"reading {what}: none of {total} samples can be read" + (f"; the first: {reasons[0]}" if reasons else ""),
            fix=fix,
        )
    if reasons:
        log.warning(
            "reading %s: %d samples cannot be read and are left out; the first: %s", what, len(reasons), reasons[0]
        )


def _read_recorded(run: Run) -> tuple[dict[str, float], int, set[str]]:
    """Return what training recorded about validation.

    Returns:
        Top-1 (mAP for multi-label targets) per target on the validation split, the number of its samples, and the
            titles of the samples that training could not read.
    """
    if not (run.root / METRICS).is_file():
        return {}, 0, set()
    try:
        metrics = json.loads((run.root / METRICS).read_text(encoding="utf-8"))
        versions.METRICS.is_newer(metrics.get(versions.VERSION))
        found = {target: _figure_from_scores(scores) for target, scores in metrics.get("val", {}).items()}
        return (
            found,
            int(metrics["samples"].get("val", 0)),
            {" ".join(filter(None, (sample["path"], sample.get("interval")))) for sample in metrics["unreadable"]},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{run.root / METRICS} cannot be read: {error}", fix=COPY_WHOLE) from error


def _figure_from_scores(scores: Mapping[str, Any]) -> float:
    if "top1" in scores:
        return float(scores["top1"])
    precision = scores["mean_average_precision"]
    return math.nan if precision is None else float(precision)
