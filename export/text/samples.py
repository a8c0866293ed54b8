"""Samples that a language model is judged on: tokenised prompts, the reference answers, and their form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import DataError, SettingsError
from vidrisk.runtimes.text.requests import Comparison, Embeddings, Ids, Prompt
from vidrisk.runtimes.text.schema import check_schema

Parts = tuple[npt.NDArray[Any], ...]
Visual = Sequence[Sequence[Embeddings]]  # per sample, per photo: its visual tokens, float32 (n, width)


@dataclass(frozen=True, eq=False)
class GateSample:
    """One sample.

    Attributes:
        name: for messages.
        parts: token ids ``int64 (n,)`` and visual tokens ``float32 (n, width)``, as ``Prompt.parts``.
        answer: ids of the reference answer, including the token that ends it.
        truth: true values by field; '' or missing if unknown.
        rendered: ids of the same prompt from tokenizer and template of the reference; None if not computed.
        placeholder: the id that stands for every visual token in ``rendered``.
        constant: number of leading parts that are the same in all samples.

    Raises:
        DataError: no answer, or ids of another type.
        SettingsError: parts that no prompt can have.
    """

    name: str
    parts: Parts
    answer: Ids
    truth: Mapping[str, str] = field(default_factory=dict)
    rendered: Ids | None = None
    placeholder: int | None = None
    constant: int = 1

    def __post_init__(self) -> None:
        Prompt(self.parts, self.constant)
        if self.answer.dtype != np.int64 or self.answer.ndim != 1 or not len(self.answer):
            raise DataError(
                f"{self.name}: an answer {self.answer.dtype}{list(self.answer.shape)}",
                allowed="token ids int64[n], one or more",
            )

    @property
    def visual(self) -> tuple[Embeddings, ...]:
        """Visual tokens of its photos."""
        return tuple(part for part in self.parts if part.ndim == 2)

    def with_visual(self, visual: Sequence[Embeddings]) -> GateSample:
        """Return the sample with other visual tokens for the same photos.

        Raises:
            DataError: the number of photos, or of tokens, differs.
        """
        shapes = [part.shape for part in self.visual]
        if [part.shape for part in visual] != shapes:
            raise DataError(
                f"{self.name}: visual tokens {[list(part.shape) for part in visual]}",
                allowed=f"{[list(shape) for shape in shapes]}",
            )
        new = iter(visual)
        return replace(self, parts=tuple(next(new) if part.ndim == 2 else part for part in self.parts))

    def __repr__(self) -> str:
        return f"GateSample({self.name}: {Prompt(self.parts, self.constant)!r}, answer of {len(self.answer)} tokens)"


@dataclass(frozen=True)
class ReportForm:
    """The form of an answer, in place of a scheme, which an export does not know.

    Attributes:
        schema: JSON schema of the answer, an object of required strings, in order.
        level: the field of the level, one with an ``enum``.

    Raises:
        SettingsError: the schema does not bound the answer, or has no such field.
    """

    schema: Mapping[str, Any]
    level: str

    def __post_init__(self) -> None:
        check_schema(self.schema)
        if self.level not in self.choices or len(self.levels) < 2:
            raise SettingsError(
                f"level {self.level!r} of a report",
                allowed=f"a field of two values or more, such as {', '.join(self.choices) or 'an enum'}",
            )

    @property
    def choices(self) -> tuple[str, ...]:
        """Fields of a level or a choice."""
        return tuple(name for name, part in self.schema["properties"].items() if "enum" in part)

    @property
    def texts(self) -> tuple[str, ...]:
        """Fields of a text."""
        return tuple(name for name in self.schema["properties"] if name not in self.choices)

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the levels; an empty value, for no level, is not one."""
        return tuple(str(name) for name in self.schema["properties"][self.level]["enum"] if name)

    @property
    def comparison(self) -> Comparison:
        """The comparison of how likely each level is, at the place where the answer names one."""
        return Comparison.of_field(self.level, self.levels, is_last=self.level == list(self.schema["properties"])[-1])

    def fields_from_text(self, text: str) -> dict[str, str] | None:
        """Return the fields of an answer by name, or None if it does not have this form."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, dict) or list(found) != list(self.schema["properties"]):
            return None
        return {name: str(value) for name, value in found.items()}


def spread(samples: Sequence[GateSample], most: int) -> list[int]:
    """Return the positions of at most ``most`` samples, evenly spread."""
    return [int(place) for place in np.linspace(0, len(samples) - 1, min(len(samples), most)).round()]
