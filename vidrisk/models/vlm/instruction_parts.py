"""Conversion of the conversations of a data set to prompt parts, shared by training and the judging of exports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from vidrisk.data.instructions import Instruction, Turn
from vidrisk.data.report_prompts import PHOTO
from vidrisk.runtimes.contract.report import ChatPieces
from vidrisk.runtimes.text.turns import Encoder, Exchange, Parts, parts_from_exchanges

_MARKERS = re.compile(rf"\s*{PHOTO}\n?")


def parts_from_instruction(
    item: Instruction, encoder: Encoder, pieces: ChatPieces, end: int, *, system: str | None
) -> Parts:
    """Return a conversation as parts.

    Photos precede the turn that names them, wherever their markers are in it.

    Args:
        item: the conversation.
        encoder: of the text.
        pieces: of the chat template.
        end: id of the token that ends an answer.
        system: system text if the conversation has none of its own.
    """
    own, exchanges = exchanges_from_instruction(item)
    return parts_from_exchanges(encoder, pieces, end, system if own is None else own, exchanges)


def exchanges_from_instruction(item: Instruction) -> tuple[str | None, list[Exchange]]:
    """Return the system text, or None if there is none, and the questions with their answers."""
    turns = list(item.turns)
    system = turns.pop(0).text if turns[0].role == "system" else None
    return system, list(_exchanges(turns))


def _exchanges(turns: Sequence[Turn]) -> Iterator[Exchange]:
    for asked, answered in pairwise([*turns, Turn("user", "")]):
        if asked.role == "user":
            text = _MARKERS.sub("\n", asked.text).strip("\n") if PHOTO in asked.text else asked.text
            yield Exchange(text, asked.text.count(PHOTO), answered.text if answered.role == "assistant" else None)
