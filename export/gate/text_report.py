"""What the gate has found out about a language model: records of ``GateReport``, and of ``gate.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

HopKind = Literal["prompts", "exact", "rounded"]


@dataclass(frozen=True)
class TokenFigures:
    """What a hop does to the probabilities of tokens, at every place of the reference answers (teacher forcing).

    Attributes:
        tokens: places that were compared.
        apart: largest difference of any token's log-probability at any place, in nats; infinite where one is not
            finite.
        first_apart, first_mean: largest and mean difference at the first token of an answer, over the tokens that are
            most probable there.
        kl: mean Kullback-Leibler divergence, in nats per token.
        top1: share of places where the same token is the most probable, 0–1.
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
        """0.03 where it rises by 3 %."""
        return self.perplexity_after / self.perplexity_before - 1


@dataclass(frozen=True)
class VisualFigures:
    """What a hop does to visual tokens.

    Attributes:
        apart: largest difference of an element; infinite where one is not finite.
        cosine: of the token that turns most.
    """

    tokens: int
    apart: float
    cosine: float


@dataclass(frozen=True)
class WeightFigures:
    """What packing does to a matrix of weights.

    Attributes:
        matrices: that are packed.
        error: root mean square of the error as a share of that of the weights, of the matrix that is worst for its
            bits.
        limit: of matrices of so many bits.
        where: its layer.
    """

    matrices: int
    error: float
    limit: float
    where: str


@dataclass(frozen=True)
class ChangedAnswer:
    """An answer whose level or choice changed, or that is no whole answer any more.

    Attributes:
        index: place among the samples.
        fields: names of the fields that changed; none where the answer is not whole.
        truth, before, after: values by field; ``before`` and ``after`` are empty where the answer is not whole.
    """

    index: int
    sample: str
    fields: tuple[str, ...]
    truth: Mapping[str, str]
    before: Mapping[str, str]
    after: Mapping[str, str]


@dataclass(frozen=True)
class FieldFigures:
    """What a hop does to the fields of answers that are written by the schema. Shares are 0–1, NaN where there is nothing to count.

    Attributes:
        complete_before, complete_after: share of answers that are whole.
        agreement: share of equal values, by field of a level or a choice, among the answers that are whole before.
        level: the field of the level; empty where there is none.
        length_drift: change of the mean length, by field of a text: 0.1 where texts are a tenth longer.
        accuracy_before, accuracy_after: share of samples whose level is the true one, among those whose truth is known.
        drop_points: lost accuracy in percentage points.
        interval_points: 95 % interval of the drop.
        p_value: how likely chance alone explains the drop.
        judged: samples whose true level is known.
        changed: how many answers changed; ``examples`` are the first of them.
        tokens_per_s: that were written, all answers together; not judged.
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
    """The comparison of a language model with what it was made from.

    Attributes:
        kind: what is asked of it: equal prompts, the same function, or one that is near enough.
        waived: it loses more than it may, and was let pass all the same; ``reason`` says what.
        samples: that were compared.
        bytes: of the graph's files; 0 where there is none.
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
    """A way to pack a text graph that was tried.

    Attributes:
        reason: why it is not inside the limits; empty where it is.
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
        float_blocks: of the vision stage in floating point.
        agreement: share of the answers in which the level or choice that changes most is what floating point writes;
            None where nothing was compared.
        reason: why the gate refuses it; empty where it does not.
    """

    what: str
    float_blocks: tuple[str, ...]
    agreement: float | None
    reason: str
    chosen: bool = False
