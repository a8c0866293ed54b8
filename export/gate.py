"""The gate: every hop of an export is compared with the one before it, on the user's own samples.

    training → adapter → merged → ONNX fp32 → FP16, INT8 or mixed, the ONNX hops once per runtime that works here

What training recorded must be found again, a floating-point hop must reproduce its predecessor, and one to FP16 or INT8 may lose
``max_drop`` points of top-1 accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from vidrisk.calibration.half_check import worst_cosine
from vidrisk.export.outputs import FloatArray, Ints, Outputs, Validation
from vidrisk.export.paired import binomial_tail, drop_interval_points, least_provable_points, mcnemar_p, share_interval
from vidrisk.export.report import Change, Flip, GateReport, Hop, Lap
from vidrisk.runtimes.contract import Contract, Target
from vidrisk.runtimes.errors import DataError
from vidrisk.runtimes.probabilities import expected_calibration_error, probabilities_from_logits
from vidrisk.runtimes.registry import GPU_RUNTIMES

LOGIT_TOLERANCE = 1e-3
FEW_SAMPLES = 100
MAX_FLIPS = 200
RECORDED_P = 1e-3  # an export is refused wrongly once in a thousand at most
UNDECIDED_SAMPLES = 2.5  # that may turn by rounding between two machines
COLLAPSED_SAMPLES = 5  # fewer that all turn to the one other class may be chance, and are a matter of accuracy
NOT_FINITE = "outputs are not finite"


def recorded_hop(outputs: Outputs, validation: Validation, contract: Contract, recorded: Mapping[str, float], *,
                 same_samples: bool = False) -> Hop:
    """The first hop: the model must be as accurate here as training recorded, but for the choice of the samples.

    Swapped labels, other pixels or a wrong head show here, where both sides of every later hop would share them. ``p_value`` is
    that of a one-sided exact binomial test, the interval is of what these samples measure, and nothing is known per sample.

    Args:
        recorded: top-1 per target, 0–1, that training measured on its validation split.
        same_samples: training measured on these very samples, so that chance explains nothing.

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
        differs = abs(correct - rate * samples) > UNDECIDED_SAMPLES if same_samples else p_value < RECORDED_P
        if differs and not reason:
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
              *, max_drop: float, allow_drop: bool = False, min_cosine: float = -1.0) -> Hop:
    """A hop that may cost at most ``max_drop`` points of top-1 accuracy in any target; more if ``allow_drop``, which it then says.

    Features of any frame must keep a cosine of ``min_cosine`` with what they were.

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
    if hop.feature_cosine < min_cosine:
        return _refused(hop, f"the features of a frame turn: cosine {hop.feature_cosine:.4f}, at least {min_cosine:g} is allowed")
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


def speed_refusal(report: GateReport, variant: str) -> str:
    """``speed_verdict`` where it counts: a bundle for a GPU or a Jetson is not judged by the speed of this machine's processor, and
    one for processors not by that of its GPU."""
    if report.target != "cpu":
        return ""
    return speed_verdict([lap for lap in report.laps if lap.runtime not in GPU_RUNTIMES], variant)


def few_samples_note(samples: int, max_drop: float) -> str:
    """Says when so many samples cannot show a drop as small as the budget; empty when they can."""
    least = least_provable_points(samples)
    if least <= max_drop:
        return ""
    few = f"{samples} samples are few: one of them is {100 / samples:.1f} points, and " if samples < FEW_SAMPLES else (
        f"with {samples} samples, ")
    shown = f"a drop under {least:.1f} points cannot" if least <= 100 else "no drop at all can"
    return f"{few}{shown} be told from chance; the budget is {max_drop:g}"


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
               changes=changes, flips=tuple(flips), flipped=int(flipped.sum()),
               feature_cosine=worst_cosine(before.features, after.features))


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
