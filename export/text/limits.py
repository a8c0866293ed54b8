"""Limits of each kind of hop for language models, and the measurements that they are derived from.

Measured on SmolLM2-135M-Instruct, untuned: *answers* are 10 reference answers of 216 tokens to a scheme's questions
with three examples in the prompt (merges: 5 of them), *English* is 576 tokens of a licence. The adapter, on all layers,
changes weights by 0.3 % of their size.

    hop                                       apart    first token   KL        top token   perplexity
    adapter → merged, answers                 0.00007  0.000006      0         100 %       as before
    merged twice, answers                     0.41     0.019         0.0002    100 %       + 0.3 %
    merged → onnx fp32, answers and English   0.00009  0.000006      0         100 %       as before
    int8, answers (English)                   1.4      0.08 (0.12)   0.003 (0.005)  99 % (95 %)  + 0.3 % (0.5 %)
    int4 and output layer in 8, answers (English)
                                              12       0.39 (0.70)   0.13 (0.32)    88 % (69 %)  + 7.0 % (22 %)
    the same, down projections in 8           10       0.45 (0.58)   0.08 (0.21)    90 % (73 %)  + 1.5 % (9.7 %)
    int4, scales of o_proj along the wrong axis, answers
                                              36       3.2           5.9            13 %         712 ×

With the scales of only one layer's o_proj along the wrong axis, tokens show little (KL 0.15). Matrices are therefore
compared one by one, by the relative error of their weights: 8 bits are 0.006 off and 4 bits in groups of 32 at most
0.087; along the wrong axis, in the worst of eleven layers, 0.39 to 0.68 (random weights: 0.25). The untuned model
guesses levels (37 % right), so its fields say nothing about 4 bits; in 8 bits 98 % of its levels stay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vidrisk.calibration.nbits import Bits
from vidrisk.export.gate.text_report import FieldFigures, TokenFigures, VisualFigures, WeightFigures


@dataclass(frozen=True)
class TokenLimits:
    """Limits for the effect of a hop on token probabilities; ``TokenFigures`` has the units.

    Attributes:
        perplexity_rise: 0.03 for 3 %.
    """

    apart: float = math.inf
    first_mean: float = math.inf
    kl: float = math.inf
    top1: float = 0.0
    perplexity_rise: float = math.inf

    def reason(self, found: TokenFigures) -> str:
        """Return which limit is exceeded, or an empty string."""
        if not math.isfinite(found.apart):
            return "log-probabilities are not finite"
        exceeded = [
            f"{what} {value:.2g}{unit}, at most {most:g} is allowed"
            for what, value, most, unit in (
                ("log-probabilities differ by", found.apart, self.apart, " nats"),
                ("those of the first token differ by", found.first_mean, self.first_mean, " nats on average"),
                ("the KL divergence is", found.kl, self.kl, " nats per token"),
            )
            if value > most
        ]
        if found.top1 < self.top1:
            exceeded.append(
                f"the most probable token stays at {100 * found.top1:.1f} % of the positions, at least "
                f"{100 * self.top1:g} % are needed"
            )
        if found.perplexity_rise > self.perplexity_rise:
            exceeded.append(
                f"the perplexity of the reference answers rises by {100 * found.perplexity_rise:.1f} %, "
                f"at most {100 * self.perplexity_rise:g} % is allowed"
            )
        return "; ".join(exceeded)


@dataclass(frozen=True)
class FieldLimits:
    """Limits for the effect of a rounded hop on the fields of answers.

    Attributes:
        complete: least share of complete answers.
        agreement: least share of equal values of each field of a level or a choice, of at least ``judged`` answers.
        length_drift: largest change of a text's mean length, either way, 0.5 for half.
    """

    complete: float = 1.0
    agreement: float = 0.9
    judged: int = 20
    length_drift: float = 0.5

    def reason(self, found: FieldFigures, max_drop: float) -> str:
        """Return which limit is exceeded, or an empty string.

        Args:
            found: the figures.
            max_drop: percentage points of the level's accuracy that may be lost.
        """
        reasons = []
        if found.complete_after < min(self.complete, found.complete_before):
            reasons.append(
                f"{100 * found.complete_after:.1f} % of the answers are complete, before it was "
                f"{100 * found.complete_before:.1f} %"
            )
        for name, share in found.agreement.items():
            if found.samples >= self.judged and share < self.agreement:
                reasons.append(
                    f"{name} stays in {100 * share:.1f} % of the answers, at least {100 * self.agreement:g} % have to"
                )
        for name, drift in found.length_drift.items():
            if abs(drift) > self.length_drift:
                reasons.append(
                    f"the mean length of {name} changes by {100 * drift:+.0f} %, at most "
                    f"{100 * self.length_drift:g} % is allowed"
                )
        if found.drop_points > max_drop + 1e-9:
            reasons.append(
                f"the accuracy of {found.level} falls by {found.drop_points:.2f} points, at most {max_drop:g} is "
                "allowed"
            )
        return "; ".join(reasons)


EXACT_MERGE = TokenLimits(apart=1e-3, first_mean=1e-4)
EXACT_GRAPH = TokenLimits(apart=1e-3, first_mean=1e-4)
EXACT_VISION = TokenLimits(apart=1e-2, first_mean=1e-3)
LEAST_COSINE = 0.999  # of a visual token, on the hop that must change nothing
WEIGHT_ERROR: dict[Bits, float] = {4: 0.2, 8: 0.02}  # of a matrix, by its bits
ROUNDED = TokenLimits(first_mean=1.0, kl=0.2, top1=0.8, perplexity_rise=0.15)
FIELDS = FieldLimits()


def weights_reason(found: WeightFigures) -> str:
    """Return why packed weights do not represent the original ones, or an empty string if they do."""
    if found.error <= found.limit:
        return ""
    return (
        f"the packed weights of {found.where} are off by {found.error:.2g} of their size, at most {found.limit:g} is "
        "allowed"
    )


def vision_reason(found: VisualFigures, least_cosine: float) -> str:
    """Return why visual tokens have changed, or an empty string if they have not."""
    if not math.isfinite(found.apart):
        return "visual tokens are not finite"
    if found.cosine < least_cosine:
        return f"a visual token deviates: cosine {found.cosine:.4f}, at least {least_cosine:g} is allowed"
    return ""
