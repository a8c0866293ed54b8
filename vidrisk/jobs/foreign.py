"""Export of a foreign model to a bundle: reads labels, pixels and samples, then calls ``vidrisk.export``."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vidrisk.calibration.files import save_graph
from vidrisk.data import Table
from vidrisk.data.choice import draw_samples
from vidrisk.data.table import Sample
from vidrisk.data.targets import order_levels, truth_from_table
from vidrisk.export.foreign.answers import Answer
from vidrisk.export.foreign.classifier import Asked, ImageInput, read_classifier
from vidrisk.export.foreign.labels import ForeignLabels, read_labels
from vidrisk.export.foreign.pixels import ForeignPixels, pixels_from_settings, read_pixel_file, says_arithmetic
from vidrisk.export.foreign.probe import PROBE_SAMPLES, Frames, KnownAnswer, Probe, probe_pixels
from vidrisk.export.foreign.wrap import classifier_stage, wrap_classifier
from vidrisk.export.gate.report import GateReport
from vidrisk.export.trained import ExportOptions, Trained, TrainedStage
from vidrisk.files.cache import array_cache
from vidrisk.frames.cached import CachedClips
from vidrisk.frames.interval import Interval
from vidrisk.frames.media import kind_of
from vidrisk.jobs.export import MAX_VALIDATION_BYTES, export_trained
from vidrisk.models.hub_classifier import HubClassifier, load_hub_classifier
from vidrisk.models.hub_pixels import PREPROCESSOR
from vidrisk.runtimes.contract.bundle import Bundle, check_vacant, sha256_of
from vidrisk.runtimes.contract.choices import LabelTask
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.errors import DataError, SettingsError, UnreadableError, name_some
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.runtimes.contract.specs import TimeSpec
from vidrisk.runtimes.runner import Array

log = logging.getLogger(__name__)

HALF_OPSET = 19  # the first with Q/DQ nodes whose scales are FP16
CLIP_FRAMES = 8
ONE_TARGET: dict[LabelTask, str] = {"action": "action", "risk": "defect", "action+risk": "action"}


@dataclass(frozen=True)
class ForeignModel:
    """A model trained elsewhere, with its owner's description.

    Attributes:
        path: an ONNX file, or a folder with a Hugging Face image or video classifier.
        labels: a labels file (``export.foreign.labels``); a Hugging Face folder has its own.
        pixel: a pixel file (``export.foreign.pixels``); without it, or with a size alone, the pixel format is found by
            means of labelled samples.
        checks: images and their known labels.
    """

    path: Path
    task: LabelTask = "risk"
    labels: Path | None = None
    pixel: Path | None = None
    checks: Sequence[tuple[Path, str]] = field(default_factory=tuple)


def foreign_model_from_settings(
    path: Path,
    *,
    from_hf: bool,
    labels: Path | None,
    pixel: Path | None,
    checks: Sequence[tuple[Path, str]],
    task: LabelTask | None,
    has_val: bool,
    qat_steps: int,
) -> ForeignModel | None:
    """Return the foreign model of the settings, or None if ``path`` is a run.

    Args:
        path: an ONNX file, a Hugging Face folder, or a run.
        from_hf: the path is a folder with a Hugging Face classifier; an ONNX file is recognized by itself.
        labels: as in ``ForeignModel``.
        pixel: as in ``ForeignModel``.
        checks: as in ``ForeignModel``.
        task: of the labels.
        has_val: whether there are labelled data to judge it by.
        qat_steps: of the export; a foreign model allows none.

    Raises:
        SettingsError: settings that do not belong to the kind of model, or a missing setting.
    """
    given = {"labels": labels, "pixels": pixel, "known answers": checks, "a task": task}
    is_onnx = path.is_file() or (path.suffix == ".onnx" and not path.exists())  # a mistyped name is not a run
    if not from_hf and not is_onnx:
        if wrong := next((name for name, value in given.items() if value), None):
            raise SettingsError(
                f"{wrong} with a run", allowed="with an ONNX file or a Hugging Face folder", fix="leave it out"
            )
        return None
    if from_hf and (wrong := next((name for name in ("labels", "pixels") if given[name]), None)):
        raise SettingsError(
            f"{wrong} with a Hugging Face folder", allowed="what the folder's config.json says", fix="leave it out"
        )
    if from_hf and not path.is_dir():
        raise SettingsError(f"{path} is not a folder", allowed="one that save_pretrained has written")
    if not from_hf and labels is None:
        raise _no_labels(path)
    if not has_val:
        raise SettingsError(f"no labelled data to judge {path.name} by", fix="give some as val, and as calib for INT8")
    if qat_steps:
        raise SettingsError("quantisation-aware training with a model that was trained elsewhere", fix="leave it out")
    return ForeignModel(path, task or "risk", labels, pixel, checks)


def _no_labels(path: Path) -> SettingsError:
    return SettingsError(
        f"no labels for {path.name}",
        allowed="one label per line, in the order of the model's outputs",
        fix="give a labels file",
    )


def export_foreign(
    model: ForeignModel,
    out: Path,
    options: ExportOptions,
    *,
    val: Table,
    calib: Table | None = None,
    calib_samples: int = 128,
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> tuple[Bundle, GateReport]:
    """Export a foreign model.

    Args:
        model: to export.
        out: bundle to write.
        options: of the export.
        val: labelled samples to find the pixel format and judge the export.
        calib: labelled samples to calibrate on; those that judge are left out.
        calib_samples: number of samples to calibrate on.
        seed: of the choice of samples.
        on_progress: reports the steps.

    Raises:
        DataError: not a classifier, labels that do not fit, pixels that are wrong or cannot be found out, or too few
            samples.
        SettingsError: a labels file or pixel file that makes no sense.
        GateRefused: a hop lost more than allowed.
    """
    check_vacant(out)
    if options.int8 and calib is None:
        raise DataError("no calibration samples", fix="INT8 needs some: a foreign model has no training split here")
    with tempfile.TemporaryDirectory(prefix="vidrisk-foreign-") as scratch:
        if model.path.is_dir():
            trained, source = _from_hub(model, val, seed, on_progress)
        else:
            trained, source = _from_onnx(model, val, options, Path(scratch), seed, on_progress)
        log.info("%s: %s", model.path.name, "; ".join(f"{key}: {value}" for key, value in source.items()))
        return export_trained(
            trained, out, replace(options, source=source), val, calib, calib_samples, seed, on_progress
        )


def _from_onnx(
    model: ForeignModel, val: Table, options: ExportOptions, scratch: Path, seed: int, on_progress: OnProgress
) -> tuple[Trained, dict[str, str]]:
    if model.labels is None:
        raise _no_labels(model.path)
    on_progress("inspecting the model", 0, 1)
    labels = read_labels(model.labels, _target_name(val, model.task))
    settings = read_pixel_file(model.pixel) if model.pixel else {}
    classifier = read_classifier(
        model.path,
        labels.labels,
        size=_size(settings),
        outputs=labels.outputs,
        gives=labels.gives,
        least_opset=HALF_OPSET if options.needs_half else 13,
    )
    targets, time = _targets(labels, model.task), _time(val)
    given = pixels_from_settings(settings, classifier.image) if says_arithmetic(settings) else None
    shown = tuple(Target(name=name, labels=each) for name, each in labels.labels.items())
    asked = _Asked(model, draw_samples(val, PROBE_SAMPLES, seed), shown, time)
    probe = _run_probe(asked, classifier, given, on_progress)
    contract = Contract(task=model.task, pixel=probe.pixels.spec, time=time, targets=targets)
    path = scratch / "classifier.onnx"
    save_graph(wrap_classifier(classifier, probe.pixels, contract), path)
    batch = "free" if classifier.was_fixed is None else f"{classifier.was_fixed}, made free"
    source = {
        "model": model.path.name,
        "digest": sha256_of(model.path),
        "input": repr(classifier.image),
        "batch": batch,
        "answers": ", ".join(map(str, classifier.answers.values())),
        "pixels": str(probe.pixels),
        "pixels because": probe.reason,
    }
    return Trained((TrainedStage(classifier_stage(contract), path),), contract), source


def _from_hub(model: ForeignModel, val: Table, seed: int, on_progress: OnProgress) -> tuple[Trained, dict[str, str]]:
    hub = load_hub_classifier(model.path, is_video=_time(val) is not None)
    name = _target_name(val, model.task)
    time = TimeSpec(hub.frames) if hub.frames else _time(val)
    labels = ForeignLabels({name: hub.labels})
    contract = Contract(task=model.task, pixel=hub.pixel, time=time, targets=_targets(labels, model.task))
    order = [hub.labels.index(label) for label in contract.targets[0].labels]
    stage = classifier_stage(contract)
    most = max(1, MAX_VALIDATION_BYTES // (contract.frames * math.prod(hub.pixel.frame_shape)))
    asked = _Asked(
        model,
        draw_samples(val, min(PROBE_SAMPLES, most), seed),
        (Target(name=name, labels=hub.labels),),
        time,
        is_whole=True,
    )
    probe = _run_probe(
        asked, _AskedHub(hub, name, model.path.resolve().name), ForeignPixels(hub.pixel, "rgb"), on_progress
    )
    source = {
        "model": model.path.resolve().name,
        "architecture": hub.architecture,
        "digest": hub.digest,
        "pixels": PREPROCESSOR,
        "pixels because": probe.reason,
    }
    return Trained((TrainedStage(stage, hub.module(contract.frames, order)),), contract), source


@dataclass(frozen=True)
class _AskedHub:
    """A Hugging Face classifier that can be probed."""

    hub: HubClassifier
    target: str
    name: str
    pixel_file: str = PREPROCESSOR

    @property
    def image(self) -> ImageInput:
        return ImageInput("pixels", "nchw", "float32", 3, self.hub.pixel.height, self.hub.pixel.width)

    @property
    def answers(self) -> dict[str, Answer]:
        return {self.target: Answer("logits", self.hub.labels, "logits")}

    def session(self) -> _AskedHub:
        return self

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        return {"logits": self.hub.logits(feed["pixels"])}


def _target_name(val: Table, task: LabelTask) -> str:
    return val.target_names[0] if len(val.target_names) == 1 else ONE_TARGET[task]


def _time(val: Table) -> TimeSpec | None:
    """Return None for photos; for clips, the answers to eight moments are averaged."""
    return None if all(kind_of(sample.path) == "image" for sample in val.samples[:64]) else TimeSpec(CLIP_FRAMES)


def _size(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    given = [settings.get("height"), settings.get("width")]
    if given == [None, None]:
        return None
    if not all(isinstance(each, int) and not isinstance(each, bool) for each in given):
        raise SettingsError(
            f"height {given[0]!r} and width {given[1]!r} in the pixel file", allowed="both in pixels, or neither"
        )
    return int(given[0] or 0), int(given[1] or 0)


def _targets(labels: ForeignLabels, task: LabelTask) -> tuple[Target, ...]:
    """Return the contract's targets: levels by severity, all others in the model's order."""
    targets = []
    for name, names in labels.labels.items():
        if task != "risk" or name != "level":
            if name in labels.orders:
                raise DataError(
                    f"an order for {name}, whose labels are not levels",
                    allowed="for level, with the task risk",
                    fix="leave it out",
                )
            targets.append(Target(name=name, labels=names))
            continue
        order = labels.orders.get(name) or order_levels(names)
        if sorted(order) != sorted(names):
            raise DataError(f"the order of {name} is {', '.join(order)}", allowed=f"each of {', '.join(names)} once")
        severity = tuple(round(100 * index / (len(order) - 1), 4) for index in range(len(order)))
        targets.append(Target(name=name, labels=order, ordered=True, severity=severity))
    return tuple(targets)


@dataclass(frozen=True)
class _Asked:
    """The samples for the probe, and how to read them.

    Attributes:
        targets: with labels in the model's order.
        is_whole: for a clip, use all frames of the window instead of its first moment alone.
    """

    model: ForeignModel
    table: Table
    targets: tuple[Target, ...]
    time: TimeSpec | None
    is_whole: bool = False

    def clips(self, pixels: ForeignPixels) -> CachedClips:
        contract = Contract(task=self.model.task, pixel=pixels.spec, time=self.time, targets=self.targets)
        return CachedClips(contract, array_cache())

    def read_frames(self, clips: CachedClips, path: Path, interval: Interval | None = None) -> Frames:
        """Return the frames of a sample: uint8 (H, W, 3), or (T, H, W, 3) for a whole window."""
        frames = clips.frames(path, clips.contract.frames if self.is_whole else 1, interval)
        return frames if self.is_whole else frames[0]


def _run_probe(asked: _Asked, classifier: Asked, given: ForeignPixels | None, on_progress: OnProgress) -> Probe:
    """Probe the model with the samples that can be read."""
    first = given or pixels_from_settings({"scale": "0..255"}, classifier.image)
    readable = _readable_of(asked.clips(first), asked.table)
    if not len(readable):
        raise DataError(
            f"none of {len(asked.table)} validation samples can be read",
            fix="the data must still be at its original path",
        )

    def read(pixels: ForeignPixels) -> Frames:
        clips, frames = asked.clips(pixels), []
        for done, sample in enumerate(readable.samples):
            on_progress("probing the model's pixel format", done, len(readable))
            frames.append(asked.read_frames(clips, sample.path, sample.interval))
        return np.stack(frames)

    checks = [_make_known_answer(asked, path, label) for path, label in asked.model.checks]
    return probe_pixels(classifier, read, truth_from_table(readable, asked.targets), checks, given)


def _readable_of(clips: CachedClips, table: Table) -> Table:
    def is_readable(sample: Sample) -> bool:
        try:
            clips.frames(sample.path, 1, sample.interval)
        except UnreadableError:
            return False
        return True

    return table.with_samples(sample for sample in table.samples if is_readable(sample))


def _make_known_answer(asked: _Asked, path: Path, label: str) -> KnownAnswer:
    fitting = [target.name for target in asked.targets if label in target.labels]
    if len(fitting) != 1:
        known = "; ".join(f"{target.name}: {name_some(target.labels)}" for target in asked.targets)
        raise SettingsError(
            f"{path.name} is said to be {label!r}, which {len(fitting) or 'no'} targets have", allowed=known
        )

    def read(pixels: ForeignPixels) -> Frames:
        try:
            return asked.read_frames(asked.clips(pixels), path)[None]
        except UnreadableError as error:
            raise DataError(str(error), fix="give another image with a known answer") from error

    return KnownAnswer(path.name, fitting[0], label, read)
