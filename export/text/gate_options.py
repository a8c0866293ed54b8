"""Options of a language model's gate, and the variants that it judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vidrisk.export.text.limits import FIELDS, ROUNDED, FieldLimits, TokenLimits
from vidrisk.export.text.samples import GateSample, ReportForm, Visual
from vidrisk.runtimes.contract.bundle import VariantName
from vidrisk.runtimes.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class GraphVariant:
    """A variant to be judged.

    Attributes:
        graph: of the text.
        visual: visual tokens of the samples' photos from this variant's vision stage; None uses those of the samples.
    """

    name: VariantName
    graph: Path
    visual: Visual | None = None


@dataclass(frozen=True)
class TextGateOptions:
    """How a language model is judged.

    Attributes:
        vocabulary: the tokenizer that ships.
        embeddings: the embedding table that ships.
        form: of the answers; None if the model answers questions freely: fields and levels are left out then.
        max_drop: percentage points of the level's accuracy that a variant may lose.
        allow_drop: admit rounded hops in any case, and record what they lose.
        token_samples, field_samples: limits on the samples whose tokens are compared, and whose answers are written.
        answer_tokens: limit of an answer.
        sequences: answers that are written at once.
        coverage: how often the set of levels that are not excluded must contain the true one.
        rounded, fields: limits of rounded hops.
    """

    vocabulary: Vocabulary
    embeddings: Path
    form: ReportForm | None
    max_drop: float = 1.0
    allow_drop: bool = False
    token_samples: int = 32
    field_samples: int = 128
    answer_tokens: int = 512
    sequences: int = 8
    threads: int | None = None
    coverage: float = 0.9
    rounded: TokenLimits = ROUNDED
    fields: FieldLimits = FIELDS

    def tokens(self, samples: Sequence[GateSample]) -> int:
        """Return the length of the longest sequence, prompt plus answer."""
        return max(sum(map(len, sample.parts)) + max(len(sample.answer), self.answer_tokens) for sample in samples)
