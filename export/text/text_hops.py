"""Hops of a language model: equal prompts, an exact change, or a rounded one, each with findings and verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vidrisk.calibration.half_check import worst_cosine
from vidrisk.export.gate.text_report import FieldFigures, TextHop, TokenFigures, VisualFigures, WeightFigures
from vidrisk.export.text.limits import FIELDS, FieldLimits, TokenLimits, vision_reason, weights_reason
from vidrisk.export.text.samples import GateSample, ReportForm, Visual
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.text.vocabulary import Vocabulary


def prompt_hop(samples: Sequence[GateSample], vocabulary: Vocabulary, form: ReportForm | None) -> TextHop:
    """Compare prompts with those of the reference's own tokenizer and template, and decode the reference answers.

    Args:
        samples: with their prompts and answers.
        vocabulary: the tokenizer that ships.
        form: of the answers.
    """
    reasons = []
    compared = [sample for sample in samples if sample.rendered is not None]
    differing = [sample for sample in compared if _first_difference(sample) is not None]
    if differing:
        first = differing[0]
        place = _first_difference(first)
        assert place is not None and first.rendered is not None
        ours, theirs = (
            f"token {ids[place]}" if place < len(ids) else "the end" for ids in (_prompt_ids(first), first.rendered)
        )
        reasons.append(
            f"{len(differing)} of {len(compared)} prompts have other tokens than the reference's: in {first.name}, at "
            f"position {place}, {ours} and not {theirs}"
        )
    answers = (
        {
            sample.name: vocabulary.decode([token for token in sample.answer.tolist() if token not in vocabulary.ends])
            for sample in samples
        }
        if form is not None
        else {}
    )
    unread = [name for name, text in answers.items() if form is not None and form.fields_from_text(text) is None]
    if unread:
        reasons.append(
            f"{len(unread)} of {len(samples)} reference answers are invalid with the tokenizer that ships: "
            f"{unread[0]} reads {answers[unread[0]][:40]!r}"
        )
    reason = "; ".join(reasons)
    return TextHop(
        "template → prompts", "fp32", "prompts", passed=not reason, reason=reason, waived=False, samples=len(samples)
    )


def exact_hop(
    name: str,
    variant: str,
    tokens: TokenFigures,
    limits: TokenLimits,
    visual: VisualFigures | None = None,
    least_cosine: float = -1.0,
) -> TextHop:
    """Return a hop that must change nothing."""
    reasons = [vision_reason(visual, least_cosine)] if visual is not None else []
    reason = "; ".join(filter(None, [*reasons, limits.reason(tokens)]))
    return TextHop(
        name,
        variant,
        "exact",
        passed=not reason,
        reason=reason,
        waived=False,
        samples=tokens.samples,
        tokens=tokens,
        visual=visual,
    )


def rounding_hop(
    name: str,
    variant: str,
    tokens: TokenFigures,
    limits: TokenLimits,
    *,
    fields: FieldFigures | None = None,
    field_limits: FieldLimits = FIELDS,
    max_drop: float = math.inf,
    visual: VisualFigures | None = None,
    weights: WeightFigures | None = None,
    allow_drop: bool = False,
) -> TextHop:
    """Return a hop that may change a little.

    Args:
        name: of the hop.
        variant: that is judged.
        tokens: effect on the token probabilities.
        limits: of that effect.
        fields: effect on the fields of answers.
        field_limits: of that effect.
        max_drop: percentage points of the level's accuracy that may be lost.
        visual: effect on the visual tokens.
        weights: effect on the weights.
        allow_drop: admit it in any case, except for values that are not finite and wrong weights.
    """
    faults = [
        vision_reason(visual, -1.0) if visual is not None else "",
        weights_reason(weights) if weights is not None else "",
    ]
    broken = "; ".join(filter(None, faults))
    reasons = [limits.reason(tokens), field_limits.reason(fields, max_drop) if fields is not None else ""]
    reason = broken or "; ".join(filter(None, reasons))
    waived = bool(reason) and allow_drop and not broken and math.isfinite(tokens.apart)
    samples = max(tokens.samples, fields.samples if fields is not None else 0)
    return TextHop(
        name,
        variant,
        "rounded",
        passed=not reason or waived,
        reason=reason,
        waived=waived,
        samples=samples,
        tokens=tokens,
        visual=visual,
        fields=fields,
        weights=weights,
    )


def compare_visual(before: Visual, after: Visual) -> VisualFigures:
    """Compare the visual tokens of all photos of all samples.

    Raises:
        DataError: the number of samples, photos or tokens differs.
    """
    pairs = [
        pair
        for one, other in zip(_check_counts(before, after), after, strict=True)
        for pair in zip(one, other, strict=True)
    ]
    apart, cosine, tokens = 0.0, 1.0, 0
    for one, other in pairs:
        if one.shape != other.shape:
            raise DataError(f"visual tokens {list(other.shape)} of a photo", allowed=f"{list(one.shape)}, as before")
        tokens += len(one)
        if not (np.isfinite(one).all() and np.isfinite(other).all()):
            return VisualFigures(tokens, math.inf, -1.0)
        apart = max(apart, float(np.abs(one - other).max(initial=0)))
        cosine = min(cosine, worst_cosine(one, other))
    return VisualFigures(tokens, apart, cosine)


def _check_counts(before: Visual, after: Visual) -> Visual:
    counts = [[len(sample) for sample in side] for side in (before, after)]
    if counts[0] != counts[1]:
        raise DataError(
            f"visual tokens of {sum(counts[1])} photos in {len(counts[1])} samples",
            allowed=f"{sum(counts[0])} in {len(counts[0])}, as before",
        )
    return before


def _prompt_ids(sample: GateSample) -> npt.NDArray[np.int64]:
    """Return the ids of a prompt, with the placeholder for each visual token."""
    placeholder = -1 if sample.placeholder is None else sample.placeholder
    return np.concatenate(
        [part if part.ndim == 1 else np.full(len(part), placeholder, np.int64) for part in sample.parts]
    )


def _first_difference(sample: GateSample) -> int | None:
    """Return the position of the first token that differs from the reference's, or None."""
    ours, theirs = _prompt_ids(sample), sample.rendered
    assert theirs is not None
    shorter = min(len(ours), len(theirs))
    differing = np.flatnonzero(ours[:shorter] != theirs[:shorter])
    if len(differing):
        return int(differing[0])
    return None if len(ours) == len(theirs) else shorter
