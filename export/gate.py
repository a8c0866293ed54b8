"""The gate: every hop of an export is compared with the one before it, on the user's own samples.

    training → adapter → merged → ONNX fp32 → INT8 or mixed, the ONNX hops once per runtime that works here

What training recorded must be found again, a floating-point hop must reproduce its predecessor, and a quantised one may lose
``max_drop`` points of top-1 accuracy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.export.paired import binomial_tail, drop_interval_points, least_provable_points, mcnemar_p, share_interval
from vidrisk.runtimes.contract import Contract, Target
from vidrisk.runtimes.errors import DataError
from vidrisk.runtimes.probabilities import expected_calibration_error, probabilities_from_logits
from vidrisk.runtimes.runner import Runner

FloatArray = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
BATCH = 16
LOGIT_TOLERANCE = 1e-3
FEW_SAMPLES = 100
MAX_FLIPS = 200
RECORDED_P = 1e-3  # an export is refused wrongly once in a thousand at most
COLLAPSED_SAMPLES = 5  # fewer that all turn to the one other class may be chance, and are a matter of accuracy
NOT_FINITE = "outputs are not finite"


@dataclass(frozen=True)
class Validation:
    """Labelled samples that the gate judges on.

    Attributes:
        frames: ``uint8 (N, T, H, W, 3)``.
        truth: label indices ``int64 (N,)`` per target name.
        names: N names, to say which samples flipped.
    """

    frames: npt.NDArray[np.uint8]
    truth: Mapping[str, npt.NDArray[np.int64]]
    names: Sequence[str]

    def __post_init__(self) -> None:
        lengths = {len(self.frames), len(self.names), *(len(t) for t in self.truth.values())}
        if len(lengths) != 1 or not len(self.frames):
            raise DataError(f"validation samples of lengths {sorted(lengths)}", allowed="equal lengths, at least one sample")


@dataclass(frozen=True)
class Outputs:
    """What one stage of the export computes on the validation samples.

    Attributes:
        features: ``float32 (N·T, D)``.
        logits: ``float32 (N, C)`` per target name.
        ms_per_frame: median time of the encoder per frame, in batches of ``BATCH`` frames.
    """

    features: FloatArray
    logits: Mapping[str, FloatArray]
    ms_per_frame: float


@dataclass(frozen=True)
class Flip:
    """A sample whose prediction changed. Labels are texts; the label of outputs that are not finite is empty.

    Attributes:
        index: place among the validation samples.
        confidence_before, confidence_after: probability of the predicted label, 0–1.
    """

    index: int
    sample: str
    target: str
    truth: str
    before: str
    after: str
    confidence_before: float
    confidence_after: float


@dataclass(frozen=True)
class Change:
    """What a hop did to one target. A drop above 0 is a loss.

    Attributes:
        top1_before, top1_after: 0–1.
        interval_points: 95 % interval of the drop in percentage points.
        p_value: how likely chance alone explains the drop.
        per_class: drop of recall in points, of the classes that have samples.
        ece_before, ece_after: expected calibration error of the top-1 confidence; NaN where outputs are not finite or unknown.
    """

    target: str
    top1_before: float
    top1_after: float
    drop_points: float
    interval_points: tuple[float, float]
    p_value: float
    per_class: dict[str, float]
    ece_before: float
    ece_after: float


@dataclass(frozen=True)
class Hop:
    """The comparison of one stage with the one before it.

    Attributes:
        waived: it loses more than it may, and was let pass all the same; ``reason`` says what.
        agreement: share of samples that keep their prediction in every target, 0–1; NaN where there is none to compare with.
        drop_points: percentage points of top-1 lost in the worst target.
        largest_logit_difference, largest_feature_difference: infinite where outputs are not finite, NaN as ``agreement``.
        ms_per_frame: time of the encoder in this stage.
        flips: the first 200, one per target that changed.
        flipped: samples whose prediction changed in any target.
    """

    name: str
    variant: str
    runtime: str
    passed: bool
    reason: str
    waived: bool
    agreement: float
    drop_points: float
    largest_logit_difference: float
    largest_feature_difference: float
    ms_per_frame: float
    changes: tuple[Change, ...]
    flips: tuple[Flip, ...]
    flipped: int


@dataclass(frozen=True)
class Lap:
    """How fast and how large a variant is on one runtime; ``bytes`` counts the files of all its graphs."""

    variant: str
    runtime: str
    ms_per_frame: float
    frames_per_s: float
    bytes: int


@dataclass
class GateReport:
    """Content of ``gate.json`` and ``gate.html``; it fills as the export goes.

    Attributes:
        note: says when the samples are too few.
        target: ``cpu``, ``gpu`` or ``jetson``.
        search: one row per block that the precision search measured.
        points: the choices of blocks in floating point that it tried.
        recipe: ways to quantise that were tried, with the signal-to-noise ratio of each.
        temperature: by variant and target.
        calibration: what the ranges were measured on, and how.
        verdicts: one sentence per variant, ``<variant>: shipped`` or ``<variant>: not shipped``, and why.
    """

    max_drop: float
    samples: int
    note: str = ""
    target: str = "cpu"
    hops: list[Hop] = field(default_factory=list)
    laps: list[Lap] = field(default_factory=list)
    search: list[dict[str, Any]] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)
    recipe: list[dict[str, Any]] = field(default_factory=list)
    temperature: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    verdicts: list[str] = field(default_factory=list)

    @property
    def shipped(self) -> tuple[str, ...]:
        """Variants that the bundle holds; none when the gate refused."""
        return tuple(variant for variant, _, verdict in (each.partition(": ") for each in self.verdicts)
                     if verdict.startswith("shipped"))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and containers, ready for JSON; what is not finite becomes None."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def outputs_of(encoder: Runner, head: Runner, contract: Contract, frames: npt.NDArray[np.uint8]) -> Outputs:
    """Run encoder and head over ``uint8 (N, T, H, W, 3)``."""
    samples, moments = frames.shape[:2]
    flat = frames.reshape(-1, *frames.shape[2:])
    features: list[FloatArray] = []
    seconds: list[float] = []
    encoder.infer({"frames": flat[:BATCH]})  # warm-up, so that no stage is timed while it compiles
    for begin in range(0, len(flat), BATCH):
        batch = flat[begin : begin + BATCH]
        clock = time.perf_counter()
        features.append(np.asarray(encoder.infer({"frames": batch})["features"], np.float32))
        seconds.append((time.perf_counter() - clock) / len(batch))
    whole = np.concatenate(features)
    by_clip = whole.reshape(samples, moments, -1)
    parts = [head.infer({"features": by_clip[begin : begin + BATCH]}) for begin in range(0, samples, BATCH)]
    logits = {t.name: np.concatenate([np.asarray(p[f"{t.name}_logits"], np.float32) for p in parts]) for t in contract.targets}
    return Outputs(whole, logits, float(np.median(seconds)) * 1e3)


def recorded_hop(outputs: Outputs, validation: Validation, contract: Contract, recorded: Mapping[str, float]) -> Hop:
    """The first hop: the model must be as accurate here as training recorded, but for the choice of the samples.

    Swapped labels, other pixels or a wrong head show here, where both sides of every later hop would share them. ``p_value`` is
    that of a one-sided exact binomial test, the interval is of what these samples measure, and nothing is known per sample.

    Args:
        recorded: top-1 per target, 0–1, that training measured on its validation split.

    Raises:
        DataError: a target without a recorded top-1 from 0 to 1.
    """
    samples, changes, reason = len(validation.names), [], ""
    for target in contract.targets:
        rate = recorded.get(target.name, math.nan)
        if not 0 <= rate <= 1:
            raise DataError(f"training recorded a top-1 of {rate} for {target.name!r}", allowed="0 to 1",
                            fix="copy the run whole, or train it again")
        predicted = _predicted(outputs.logits[target.name])
        correct = int((predicted == validation.truth[target.name]).sum())
        # Shrunk a little, so that one miss does not refute a recorded 100 %.
        p_value = binomial_tail(correct, samples, (rate * samples + 1) / (samples + 2))
        if p_value < RECORDED_P and not reason:
            reason = (f"top-1 of {target.name} is {100 * correct / samples:.1f} %, training recorded {100 * rate:.1f} %: "
                      "label order, normalisation or channel order differ")
        low, high = share_interval(correct, samples)
        changes.append(Change(target.name, rate, correct / samples, 100 * (rate - correct / samples),
                              (100 * (rate - high), 100 * (rate - low)), p_value, {}, math.nan,
                              _ece(outputs.logits[target.name], validation.truth[target.name])))
    reason = reason if _finite(outputs) else NOT_FINITE
    return Hop("training → adapter", "trained", "torch", passed=not reason, reason=reason, waived=False, agreement=math.nan,
               drop_points=max(change.drop_points for change in changes), largest_logit_difference=math.nan,
               largest_feature_difference=math.nan, ms_per_frame=outputs.ms_per_frame, changes=tuple(changes), flips=(), flipped=0)


def float_hop(name: str, variant: str, runtime: str, before: Outputs, after: Outputs, validation: Validation,
              contract: Contract) -> Hop:
    """A hop that must change nothing: logits within ``LOGIT_TOLERANCE``.

    So a prediction can only change where the two best logits were within twice the tolerance: undecided before.
    """
    hop = _compared(name, variant, runtime, before, after, validation, contract)
    if not (_finite(before) and _finite(after)):
        return _refused(hop, NOT_FINITE)
    if hop.largest_logit_difference > LOGIT_TOLERANCE:
        return _refused(hop, f"logits differ by {hop.largest_logit_difference:.2g}, at most {LOGIT_TOLERANCE:g} is allowed")
    return hop


def lossy_hop(name: str, variant: str, runtime: str, before: Outputs, after: Outputs, validation: Validation, contract: Contract,
              *, max_drop: float, allow_drop: bool = False) -> Hop:
    """A hop that may cost at most ``max_drop`` points of top-1 accuracy in any target; more if ``allow_drop``, which it then says.

    Outputs that are not finite, or the same answer to every sample, are refused in any case. The latter need not cost accuracy:
    where nearly all samples are sound, a model that calls everything sound is hardly ever wrong.
    """
    hop = _compared(name, variant, runtime, before, after, validation, contract)
    if not (_finite(before) and _finite(after)):
        return _refused(hop, NOT_FINITE)
    for target in contract.targets:
        only = _only_answer(before.logits[target.name], after.logits[target.name])
        if only is not None:
            return _refused(hop, f"{target.name} is {target.labels[only]!r} for every sample: the ranges fit no real input")
    if hop.drop_points > max_drop + 1e-9:
        reason = f"top-1 falls by {hop.drop_points:.2f} points, at most {max_drop:g} is allowed"
        return replace(hop, waived=True, reason=reason) if allow_drop else _refused(hop, reason)
    return hop


def speed_verdict(laps: Sequence[Lap], variant: str, reference: str = "fp32") -> str:
    """Why a variant is not worth its loss, each on its best runtime; empty when it is as fast, or one of the two was not timed."""
    best = {name: min((lap for lap in laps if lap.variant == name), key=lambda lap: lap.ms_per_frame, default=None)
            for name in (variant, reference)}
    ours, theirs = best[variant], best[reference]
    if ours is None or theirs is None or ours.ms_per_frame <= theirs.ms_per_frame:
        return ""
    return (f"{variant} needs {ours.ms_per_frame:.3g} ms per frame at best ({ours.runtime}), {reference} {theirs.ms_per_frame:.3g} "
            f"({theirs.runtime}): slower than floating point")


def few_samples_note(samples: int) -> str:
    """Says when the samples cannot carry the judgement."""
    if samples >= FEW_SAMPLES:
        return ""
    least = least_provable_points(samples)
    which = f"a drop under {least:.1f} points" if least <= 100 else "no drop at all"
    return (f"{samples} samples are few: one of them is {100 / samples:.1f} points, and {which} can"
            f"{'not' if least <= 100 else ''} be told from chance")


def _compared(name: str, variant: str, runtime: str, before: Outputs, after: Outputs, validation: Validation,
              contract: Contract) -> Hop:
    changes = tuple(_change(target, before.logits[target.name], after.logits[target.name], validation.truth[target.name])
                    for target in contract.targets)
    changed = {t.name: _predicted(before.logits[t.name]) != _predicted(after.logits[t.name]) for t in contract.targets}
    flipped = np.any(list(changed.values()), axis=0)
    flips = [_flip(int(index), target, before, after, validation) for index in np.flatnonzero(flipped)[:MAX_FLIPS]
             for target in contract.targets if changed[target.name][index]][:MAX_FLIPS]
    return Hop(name, variant, runtime, passed=True, reason="", waived=False, agreement=float(1 - flipped.mean()),
               drop_points=max(change.drop_points for change in changes),
               largest_logit_difference=max(_largest(before.logits[t.name], after.logits[t.name]) for t in contract.targets),
               largest_feature_difference=_largest(before.features, after.features), ms_per_frame=after.ms_per_frame,
               changes=changes, flips=tuple(flips), flipped=int(flipped.sum()))


def _change(target: Target, before: FloatArray, after: FloatArray, truth: Ints) -> Change:
    was_right, is_right = _predicted(before) == truth, _predicted(after) == truth
    lost, gained, samples = int((was_right & ~is_right).sum()), int((~was_right & is_right).sum()), len(truth)
    per_class = {label: 100 * float(was_right[truth == i].mean() - is_right[truth == i].mean())
                 for i, label in enumerate(target.labels) if (truth == i).any()}
    return Change(target.name, float(was_right.mean()), float(is_right.mean()), 100 * (lost - gained) / samples,
                  drop_interval_points(lost, gained, samples), mcnemar_p(lost, gained), per_class, _ece(before, truth),
                  _ece(after, truth))


def _flip(index: int, target: Target, before: Outputs, after: Outputs, validation: Validation) -> Flip:
    def answer(logits: FloatArray) -> tuple[str, float]:
        row = logits[index : index + 1]
        predicted = int(_predicted(row)[0])
        return ("", math.nan) if predicted < 0 else (target.labels[predicted], float(probabilities_from_logits(row).max()))

    (label_before, sure_before), (label_after, sure_after) = (answer(outputs.logits[target.name]) for outputs in (before, after))
    return Flip(index, validation.names[index], target.name, target.labels[int(validation.truth[target.name][index])],
                label_before, label_after, sure_before, sure_after)


def _predicted(logits: FloatArray) -> Ints:
    """Label indices ``(N,)``; −1, which is never right, where a logit is not finite."""
    return np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), -1).astype(np.int64)


def _ece(logits: FloatArray, truth: Ints) -> float:
    if not np.isfinite(logits).all():
        return math.nan
    return expected_calibration_error(probabilities_from_logits(logits).max(axis=1), logits.argmax(axis=1) == truth)


def _only_answer(before: FloatArray, after: FloatArray) -> int | None:
    """The label that every sample got, unless nearly every one had it before."""
    answers = np.unique(after.argmax(axis=1))
    if len(answers) > 1 or (before.argmax(axis=1) != answers[0]).sum() < COLLAPSED_SAMPLES:
        return None
    return int(answers[0])


def _finite(outputs: Outputs) -> bool:
    return all(bool(np.isfinite(each).all()) for each in (outputs.features, *outputs.logits.values()))


def _largest(before: FloatArray, after: FloatArray) -> float:
    with np.errstate(invalid="ignore"):  # infinite minus infinite
        difference = np.abs(before - after)
    return float(difference.max()) if np.isfinite(difference).all() else math.inf


def _refused(hop: Hop, reason: str) -> Hop:
    return replace(hop, passed=False, reason=reason)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
