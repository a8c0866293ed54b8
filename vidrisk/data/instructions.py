"""Instruction data: conversations about images from any source, and their construction from cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vidrisk.data.answers import answer_from_fields
from vidrisk.data.case_writers import fields_without_markers
from vidrisk.data.cases import Case, PhotoSource
from vidrisk.data.report_prompts import PHOTO, Style, prompt_from_case
from vidrisk.data.scheme import Scheme
from vidrisk.data.table import SplitName
from vidrisk.runtimes.contract.errors import DataError

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """Text of one side of a conversation; ``<image>`` stands for the next image of the conversation."""

    role: Role
    text: str


@dataclass(frozen=True)
class Instruction:
    """A conversation about images, or about none.

    Attributes:
        id: unique in a data set.
        images: in the order of their markers in the turns.
        turns: optionally a system text, then user and assistant in turns.
        split: ``train``, ``val`` or ``test``; None before the split.
        group: instructions of one group, such as those about one image, stay in one split.
        where: the record that it comes from, for messages.

    Raises:
        DataError: turns out of order, an empty answer, or a number of markers that differs from that of images.
    """

    id: str
    images: tuple[PhotoSource, ...]
    turns: tuple[Turn, ...]
    split: SplitName | None = None
    group: str | None = None
    where: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        problem = problem_of_turns(self.turns, len(self.images))
        if problem:
            raise DataError(f"{self.where or self.id}: {problem}")

    def __repr__(self) -> str:
        split = f", {self.split}" if self.split else ""
        return f"Instruction({self.id}: {len(self.images)} images, {len(self.turns)} turns{split})"


@dataclass(frozen=True, repr=False)
class Instructions:
    """Instructions of one data set.

    Attributes:
        root: the folder that images are relative to.
        missing: named images that do not exist.
        left_out: records that cannot be used, and why.
        notes: assumptions made, and what is left out.
    """

    root: Path
    items: tuple[Instruction, ...]
    missing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        lacking = f"{len(self.missing)} images missing, {len(self.left_out)} left out"
        return f"Instructions({self.root.name}: {len(self.items)}, {lacking})"


def problem_of_turns(turns: Sequence[Turn], images: int) -> str:
    """Describe the first problem of a conversation, or return '' if there is none."""
    spoken = turns[1:] if turns and turns[0].role == "system" else turns
    if not spoken:
        return "it has no turn of a user"
    for place, turn in enumerate(spoken):
        if turn.role != ("user", "assistant")[place % 2]:
            return f"turn {place + 1} is of the {turn.role}, but user and assistant must alternate"
        if turn.role == "assistant" and (not turn.text.strip() or PHOTO in turn.text):
            return f"turn {place + 1} is an answer with {'an image in it' if turn.text.strip() else 'nothing in it'}"
    if turns[0].role == "system" and PHOTO in turns[0].text:
        return "its system text has an image in it"
    markers = sum(turn.text.count(PHOTO) for turn in spoken)
    return "" if markers == images else f"it has {markers} markers {PHOTO} for {images} images"


def instruction_from_case(
    scheme: Scheme, case: Case, *, style: Style = "json", with_answer: bool = True
) -> Instruction:
    """Build the conversation of a case: system, user and, for training, the answer.

    Raises:
        DataError: neither a photo nor a text; with an answer, fields that the scheme does not allow.
    """
    prompt = prompt_from_case(scheme, case, style=style)
    turns = [Turn("system", prompt.system), Turn("user", prompt.user)]
    if with_answer:
        turns.append(Turn("assistant", answer_from_fields(scheme, fields_without_markers(scheme, case), style)))
    return Instruction(case.id, case.photos, tuple(turns), case.split, case.group, case.where)
