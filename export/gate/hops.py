"""Hops of an export, each compared with the previous one on the user's own samples.

    training → adapter → merged → ONNX fp32 → FP16, INT8 or mixed, the ONNX hops once per runtime that works here

The accuracy that training recorded must be reproduced, and a floating-point hop must reproduce its predecessor. A hop
to FP16 or INT8 may lose ``max_drop`` points of top-1 accuracy and move probabilities by ``max_confidence_drop`` points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from vidrisk.calibration.half_check import worst_cosine
from vidrisk.calibration.points import Outcome
from vidrisk.export.gate.confidence import calibration_error, confidence_refusal, confidence_shift, match_temperatures
from vidrisk.export.gate.outputs import Outputs, Validation
from vidrisk.export.gate.report import Change, Cut, Flip, Hop
from vidrisk.export.gate.sides import Sides
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.printable import printable
from vidrisk.runtimes.contract.stages import Stage
from vidrisk.runtimes.paired import drop_interval_points, least_provable_points, mcnemar_p
from vidrisk.runtimes.precision import mean_precision, precision_drop, precision_interval
from vidrisk.runtimes.runner import Array
from vidrisk.runtimes.shares import binomial_tail, share_interval

FloatType = Literal["fp32", "fp16"]
# Tolerance of logits for a hop that must change nothing, by the weight type of either side. Only the order of sums
# differs: single precision has seven digits, half precision three.
LOGIT_TOLERANCE: dict[FloatType, float] = {"fp32": 1e-3, "fp16": 2e-2}
FEW_SAMPLES = 100
MAX_FLIPS = 200
RECORDED_P = 1e-3  # at most one export in a thousand is refused wrongly
UNDECIDED_PRECISION = 0.005  # of mAP, that rounding may cost between two machines
UNDECIDED_SAMPLES = 2.5  # number of samples whose prediction may change by rounding between two machines
COLLAPSED_SAMPLES = 5  # fewer samples that all change to one other class may be chance, and count as accuracy
NOT_FINITE = "outputs are not finite"
MAX_NAMES = 3  # of samples, in a reason


def training_hop(
    outputs: Outputs,
    validation: Validation,
    contract: Contract,
    recorded: Mapping[str, float],
    *,
    same_samples: bool = False,
) -> Hop:
    """Return the first hop: the model must be as accurate here as training recorded, up to the choice of samples.

    Swapped labels, other pixels or a wrong head show here; both sides of every later hop would share them. ``p_value``
    is that of a one-sided exact binomial test, the interval is that of these samples' accuracy, and nothing is known
    per sample.

    Args:
        outputs: of the model as trained.
        validation: the samples.
        contract: targets of the model.
        recorded: top-1 per target, 0–1, that training measured on its validation split; mAP of a multi-label target,
            NaN if every label is the same for all of its samples.
        same_samples: training measured on exactly these samples, so that chance explains nothing.

    Raises:
        DataError: a target has no recorded figure from 0 to 1.
    """
    changes, reason = [], ""
    for target in contract.targets:
        rate = recorded.get(target.name, math.nan)
        if target.multi_label and target.name in recorded and math.isnan(rate):
            raise DataError(
                f"training could not measure the mAP of {target.name!r}: each label holds for all validation samples, "
                "or for none",
                fix="give other labelled data as val",
            )
        if not 0 <= rate <= 1:
            raise DataError(
                f"training recorded a top-1 of {rate} for {target.name!r}",
                allowed="0 to 1",
                fix="copy the run whole, or train it again",
            )
        sides = Sides.of(
            target, outputs.logits[target.name], outputs.logits[target.name], validation.truth[target.name]
        )
        if target.multi_label:
            change, trouble = _compare_precision(sides, rate)
        else:
            change, trouble = _compare_share(sides, rate, same_samples=same_samples)
        if trouble and not reason:
            reason = trouble + ": label order, normalisation or channel order differ"
        changes.append(change)
    reason = _not_finite(validation, outputs) or reason
    return Hop(
        "training → adapter",
        "trained",
        "torch",
        passed=not reason,
        reason=reason,
        waived=False,
        agreement=math.nan,
        drop_points=max(change.drop_points for change in changes),
        largest_logit_difference=math.nan,
        ms_per_frame=outputs.ms_per_frame,
        changes=tuple(changes),
        flips=(),
        flipped=0,
        samples=len(validation.names),
    )


def _compare_share(sides: Sides, rate: float, *, same_samples: bool) -> tuple[Change, str]:
    """Compare the share of right answers with the recorded one; return a message if it differs."""
    target, samples, correct = sides.target.name, int(sides.labelled.sum()), int(sides.right_before.sum())
    # Slightly shrunk, so that one miss does not refute a recorded 100 %.
    p_value = binomial_tail(correct, samples, (rate * samples + 1) / (samples + 2))
    differs = abs(correct - rate * samples) > UNDECIDED_SAMPLES if same_samples else p_value < RECORDED_P
    reason = (
        f"top-1 of {target} is {100 * correct / samples:.1f} %, training recorded {100 * rate:.1f} %" if differs else ""
    )
    low, high = share_interval(correct, samples)
    return Change(
        target,
        rate,
        correct / samples,
        100 * (rate - correct / samples),
        (100 * (rate - high), 100 * (rate - low)),
        p_value,
        {},
        math.nan,
        calibration_error(sides.target, sides.sure_before, sides.truth),
    ), reason


def _compare_precision(sides: Sides, recorded: float) -> tuple[Change, str]:
    """Compare the mean average precision with the recorded one; return a message if it is lower beyond chance."""
    found = mean_precision(sides.sure_before, sides.truth)
    low, high = precision_interval(sides.sure_before, sides.truth)
    differs = recorded > high and recorded - found > UNDECIDED_PRECISION
    name = sides.target.name
    reason = f"mAP of {name} is {100 * found:.1f} %, training recorded {100 * recorded:.1f} %" if differs else ""
    return Change(
        name,
        math.nan,
        float(sides.right_before[sides.labelled].mean()),
        100 * (recorded - found),
        (100 * (recorded - high), 100 * (recorded - low)),
        math.nan,
        {},
        math.nan,
        calibration_error(sides.target, sides.sure_before, sides.truth),
        map_before=recorded,
        map_after=found,
    ), reason


def float_hop(
    name: str,
    variant: str,
    runtime: str,
    before: Outputs,
    after: Outputs,
    validation: Validation,
    contract: Contract,
    stages: Sequence[Stage] = (),
    temperature: Mapping[str, float] | None = None,
    held_in: FloatType = "fp32",
) -> Hop:
    """Return a hop that must change nothing: logits within ``LOGIT_TOLERANCE`` of the weights' type.

    A prediction can therefore only change if the two best logits were within twice the tolerance, and thus undecided.
    """
    temperature = temperature or {}
    hop = _compare(
        name,
        variant,
        runtime,
        before,
        after,
        validation,
        contract,
        stages,
        temperature,
        match_temperatures(contract.targets, before.logits, after.logits, temperature),
    )
    broken = _not_finite(validation, before, after)
    if broken:
        return _refuse(hop, broken)
    allowed = LOGIT_TOLERANCE[held_in]
    if hop.largest_logit_difference > allowed:
        return _refuse(hop, f"logits differ by {hop.largest_logit_difference:.2g}, at most {allowed:g} is allowed")
    return hop


def lossy_hop(
    name: str,
    variant: str,
    runtime: str,
    before: Outputs,
    after: Outputs,
    validation: Validation,
    contract: Contract,
    stages: Sequence[Stage] = (),
    *,
    max_drop: float,
    max_confidence_drop: float = 100.0,
    temperature: Mapping[str, float] | None = None,
    allow_drop: bool = False,
    min_cosine: float = -1.0,
    matched: Mapping[str, float] | None = None,
) -> Hop:
    """Return a hop that may cost at most ``max_drop`` points of top-1 accuracy in any target.

    With ``allow_drop`` it may cost more, and the hop says so. If a prediction stays, its probability may move by
    ``max_confidence_drop`` points on average, over all samples and over each class that has enough of them. The
    calibration error may rise by half as much, beyond what the drop of accuracy explains. Probabilities are those after
    ``temperature``, and those after ``matched``, the temperature that the variant ships with on every runtime; without
    it, the temperature that brings the new logits nearest to the old ones, since a common scale does no harm. Every row
    of a stage's outputs must keep a cosine of ``min_cosine`` with the previous one.

    Outputs that are not finite, and the same answer to every sample, are refused in any case. The latter need not cost
    accuracy: if nearly all samples are of one class, a model that always predicts it is hardly ever wrong.
    """
    temperature = temperature or {}
    matched = matched or match_temperatures(contract.targets, before.logits, after.logits, temperature)
    hop = _compare(name, variant, runtime, before, after, validation, contract, stages, temperature, matched)
    broken = _not_finite(validation, before, after)
    if broken:
        return _refuse(hop, broken)
    judged = _sides(contract, before, after, validation, temperature, matched)
    for sides in judged:
        only = _only_answer(sides)
        if only is not None:
            return _refuse(hop, f"{sides.target.name} is {only!r} for every sample: the ranges fit no real input")
    for cut in hop.cuts:
        if cut.cosine < min_cosine:
            return _refuse(
                hop,
                f"the {cut.output} of stage {cut.stage} deviate: cosine {cut.cosine:.4f}, at least {min_cosine:g} is "
                "allowed",
            )
    reasons = [
        f"{change.measure} falls by {change.drop_points:.2f} points, at most {max_drop:g} is allowed"
        for change in hop.changes
        if change.drop_points == hop.drop_points
    ][: hop.drop_points > max_drop + 1e-9]
    reasons += [
        reason
        for sides, change in zip(judged, hop.changes, strict=True)
        if (
            reason := confidence_refusal(
                change, sides.target, sides.sure_before, sides.sure_after, sides.truth, max_confidence_drop
            )
        )
    ]
    if not reasons:
        return hop
    reason = "; ".join(reasons)
    return replace(hop, waived=True, reason=reason) if allow_drop else _refuse(hop, reason)


def outcome_of(before: Outputs, after: Outputs, validation: Validation, contract: Contract, hop: Hop) -> Outcome:
    """Return the per-sample outcome that a search compares.

    Outputs that a hop always refuses count as wrong throughout.
    """
    samples = len(validation.names)
    if not hop.passed:
        return Outcome("0" * samples, ("-" * samples,) * len(contract.targets), 100.0)
    kept, gains = np.ones(samples, bool), []
    matched = match_temperatures(contract.targets, before.logits, after.logits, {})
    for sides in _sides(contract, before, after, validation, {}, matched):
        kept &= ~sides.changed
        gains.append("".join(np.array(["-", "=", "+"])[1 + sides.right_after.astype(int) - sides.right_before]))
    return Outcome(
        "".join(np.where(kept, "1", "0")), tuple(gains), max(change.confidence_points for change in hop.changes)
    )


def few_samples_note(samples: int, max_drop: float) -> str:
    """Return a note if this many samples cannot show a drop as small as the budget, or an empty string."""
    least = least_provable_points(samples)
    if least <= max_drop:
        return ""
    few = (
        f"{samples} samples are few: one of them is {100 / samples:.1f} points, and "
        if samples < FEW_SAMPLES
        else (f"with {samples} samples, ")
    )
    shown = f"a drop under {least:.1f} points cannot" if least <= 100 else "no drop at all can"
    return f"{few}{shown} be told from chance; the budget is {max_drop:g}"


def _compare(
    name: str,
    variant: str,
    runtime: str,
    before: Outputs,
    after: Outputs,
    validation: Validation,
    contract: Contract,
    stages: Sequence[Stage],
    temperature: Mapping[str, float],
    matched: Mapping[str, float],
) -> Hop:
    judged = _sides(contract, before, after, validation, temperature, matched)
    flipped = np.any([sides.changed for sides in judged], axis=0)
    flips = [
        _flip(int(index), sides, validation)
        for index in np.flatnonzero(flipped)[:MAX_FLIPS]
        for sides in judged
        if sides.changed[index]
    ][:MAX_FLIPS]
    changes = tuple(map(_change, judged))
    return Hop(
        name,
        variant,
        runtime,
        passed=True,
        reason="",
        waived=False,
        agreement=float(1 - flipped.mean()),
        drop_points=max(change.drop_points for change in changes),
        largest_logit_difference=max(_largest(before.logits[t.name], after.logits[t.name]) for t in contract.targets),
        ms_per_frame=after.ms_per_frame,
        changes=changes,
        flips=tuple(flips),
        flipped=int(flipped.sum()),
        cuts=tuple(_cut(stage.name, spec.name, before, after) for stage in stages[:-1] for spec in stage.outputs),
        samples=len(validation.names),
    )


def _cut(stage: str, output: str, before: Outputs, after: Outputs) -> Cut:
    one, other = before.cuts[output], after.cuts[output]
    return Cut(stage, output, _largest(one, other), worst_cosine(one, other))


def _sides(
    contract: Contract,
    before: Outputs,
    after: Outputs,
    validation: Validation,
    temperature: Mapping[str, float],
    matched: Mapping[str, float],
) -> list[Sides]:
    return [
        Sides.of(
            target,
            before.logits[target.name],
            after.logits[target.name],
            validation.truth[target.name],
            temperature.get(target.name, 1.0),
            matched[target.name],
        )
        for target in contract.targets
    ]


def _change(sides: Sides) -> Change:
    target, rows = sides.target, sides.labelled
    was_right, is_right, truth = sides.right_before[rows], sides.right_after[rows], sides.truth[rows]
    lost, gained, samples = int((was_right & ~is_right).sum()), int((~was_right & is_right).sum()), len(truth)
    moved, moved_class = confidence_shift(target, sides.sure_before, sides.sure_after, sides.decision)
    known = Change(
        target.name,
        float(was_right.mean()),
        float(is_right.mean()),
        100 * (lost - gained) / samples,
        drop_interval_points(lost, gained, samples),
        mcnemar_p(lost, gained),
        {},
        calibration_error(target, sides.sure_before, sides.truth),
        calibration_error(target, sides.sure_after, sides.truth),
        moved,
        moved_class,
    )
    if target.multi_label:
        before, after = sides.answers_before[rows] == 1, sides.answers_after[rows] == 1
        per_class = {
            label: 100 * float(before[holds, i].mean() - after[holds, i].mean())
            for i, label in enumerate(target.labels)
            if (holds := truth[:, i] == 1).any()
        }
        drop = precision_drop(sides.sure_before[rows], sides.sure_after[rows], truth)
        if not math.isfinite(
            drop.before - drop.after
        ):  # every label holds for all samples, or for none: whole answers are judged
            return replace(known, per_class=per_class)
        return replace(
            known,
            per_class=per_class,
            drop_points=100 * (drop.before - drop.after),
            interval_points=drop.interval_points,
            p_value=drop.p_value,
            map_before=drop.before,
            map_after=drop.after,
        )
    per_class = {
        label: 100 * float(was_right[truth == i].mean() - is_right[truth == i].mean())
        for i, label in enumerate(target.labels)
        if (truth == i).any()
    }
    return replace(known, per_class=per_class)


def _flip(index: int, sides: Sides, validation: Validation) -> Flip:
    (label_before, sure_before), (label_after, sure_after) = sides.answer_before(index), sides.answer_after(index)
    return Flip(
        index,
        validation.names[index],
        sides.target.name,
        sides.truth_of(index),
        label_before,
        label_after,
        sure_before,
        sure_after,
    )


def _only_answer(sides: Sides) -> str | None:
    """Return the answer that every sample got, in words, unless nearly every one had it before."""
    only = sides.answers_after[0]
    if (sides.answers_after != only).any() or (sides.answers_before != only).any(axis=1).sum() < COLLAPSED_SAMPLES:
        return None
    return sides.answer_after(0)[0]


def _not_finite(validation: Validation, *sides: Outputs) -> str:
    """Return a message on samples with outputs that are not finite, or an empty string."""
    samples = len(validation.names)
    broken = np.zeros(samples, bool)
    for outputs in sides:
        for each in (*outputs.cuts.values(), *outputs.logits.values()):
            broken |= ~np.isfinite(each).reshape(samples, -1).all(axis=1)
    if not broken.any():
        return ""
    names = ", ".join(printable(validation.names[i]) for i in np.flatnonzero(broken)[:MAX_NAMES])
    return f"{NOT_FINITE} for {broken.sum()} of {samples} samples: {names}{', …' if broken.sum() > MAX_NAMES else ''}"


def _largest(before: Array, after: Array) -> float:
    with np.errstate(invalid="ignore"):  # infinite minus infinite
        difference = np.abs(before.astype(np.float32, copy=False) - after.astype(np.float32, copy=False))
    return float(difference.max()) if np.isfinite(difference).all() else math.inf


def _refuse(hop: Hop, reason: str) -> Hop:
    return replace(hop, passed=False, reason=reason)
