"""Findings of the gate on a language model: records of ``GateReport`` and ``gate.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

HopKind = Literal["prompts", "exact", "rounded"]


@dataclass(frozen=True)
class TokenFigures:
    """Effect of a hop on token probabilities at every position of the reference answers (teacher forcing).

    Attributes:
        tokens: number of compared positions.
        apart: largest difference of any token's log-probability at any position, in nats; infinite if one is not
            finite.
        first_apart, first_mean: largest and mean difference at the first token of an answer, over the tokens that are
            most probable there.
        kl: mean Kullback-Leibler divergence, in nats per token.
        top1: share of positions where the same token is the most probable, 0–1.
        perplexity_before, perplexity_after: of the reference answers.
    """

    samples: int
    tokens: int
    apart: float
    first_apart: float
    first_mean: float
    kl: float
    top1: float
    perplexity_before: float
    perplexity_after: float

    @property
    def perplexity_rise(self) -> float:
        """Relative rise of the perplexity, 0.03 for 3 %."""
        return self.perplexity_after / self.perplexity_before - 1


@dataclass(frozen=True)
class VisualFigures:
    """Effect of a hop on visual tokens.

    Attributes:
        apart: largest difference of an element; infinite if one is not finite.
        cosine: of the worst token.
    """

    tokens: int
    apart: float
    cosine: float


@dataclass(frozen=True)
class WeightFigures:
    """Effect of packing on weight matrices.

    Attributes:
        matrices: number of packed matrices.
        error: root mean square of the error relative to that of the weights, of the worst matrix for its bits.
        limit: for matrices of that many bits.
        where: its layer.
    """

    matrices: int
    error: float
    limit: float
    where: str


@dataclass(frozen=True)
class ChangedAnswer:
    """An answer whose level or choice changed, or that is no longer complete.

    Attributes:
        index: place among the samples.
        fields: names of the fields that changed; empty if the answer is not complete.
        truth, before, after: values by field; ``before`` and ``after`` are empty if the answer is not complete.
    """

    index: int
    sample: str
    fields: tuple[str, ...]
    truth: Mapping[str, str]
    before: Mapping[str, str]
    after: Mapping[str, str]


@dataclass(frozen=True)
class FieldFigures:
    """Effect of a hop on the fields of answers that are written by the schema.

    Shares are 0–1, NaN if there is nothing to count.

    Attributes:
        complete_before, complete_after: share of complete answers.
        agreement: share of equal values, by field of a level or a choice, among the answers that are complete before.
        level: the field of the level; empty if there is none.
        length_drift: change of the mean length, by text field: 0.1 if texts are a tenth longer.
        accuracy_before, accuracy_after: share of samples with the right level, among those whose true level is known.
        drop_points: lost accuracy in percentage points.
        interval_points: 95 % interval of the drop.
        p_value: probability of such a drop by chance alone.
        judged: number of samples whose true level is known.
        changed: number of changed answers; ``examples`` are the first of them.
        tokens_per_s: speed of writing all answers; not judged.
    """

    samples: int
    complete_before: float
    complete_after: float
    agreement: Mapping[str, float]
    level: str
    length_drift: Mapping[str, float]
    accuracy_before: float
    accuracy_after: float
    drop_points: float
    interval_points: tuple[float, float]
    p_value: float
    judged: int
    changed: int
    examples: tuple[ChangedAnswer, ...]
    tokens_per_s: float

    @property
    def level_agreement(self) -> float:
        return self.agreement.get(self.level, math.nan)


@dataclass(frozen=True)
class TextHop:
    """The comparison of a language model with its predecessor.

    Attributes:
        kind: the requirement: equal prompts, the same function, or a similar one.
        waived: it loses more than allowed, but was admitted on request; ``reason`` has the details.
        samples: number of compared samples.
        bytes: of the graph's files; 0 if there is none.
    """

    name: str
    variant: str
    kind: HopKind
    passed: bool
    reason: str
    waived: bool
    samples: int
    tokens: TokenFigures | None = None
    visual: VisualFigures | None = None
    fields: FieldFigures | None = None
    weights: WeightFigures | None = None
    bytes: int = 0


@dataclass(frozen=True)
class RecipeTrial:
    """A tried way of packing a text graph.

    Attributes:
        reason: why it is outside the limits; empty if it is inside.
    """

    recipe: str
    bytes: int
    tokens: TokenFigures
    reason: str
    chosen: bool = False


@dataclass(frozen=True)
class VariantTrial:
    """A variant that was offered to the gate.

    Attributes:
        what: its text and its vision stage.
        float_blocks: blocks of the vision stage in floating point.
        agreement: share of equal values in the level or choice that changes most, compared with floating point; None if
            nothing was compared.
        reason: why the gate refuses it; empty if it does not.
    """

    what: str
    float_blocks: tuple[str, ...]
    agreement: float | None
    reason: str
    chosen: bool = False
