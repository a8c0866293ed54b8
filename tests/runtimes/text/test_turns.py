"""Tests of the conversion of conversation turns to the parts of a prompt."""

from __future__ import annotations

import numpy as np

from vidrisk.runtimes.contract.report import ChatPieces
from vidrisk.runtimes.text.turns import Exchange, Parts, Photo, parts_from_exchanges

PIECES = ChatPieces(
    begin="<s>S:",
    begin_bare="<s>U:",
    to_question="</s>U:",
    photo_open="[",
    photo_close="]",
    to_answer="</s>A:",
    to_next="</s>U:",
)
END = 1


class Letters:
    """Tokenizer that encodes every character as its code.

    Where special tokens are read, ``<s>`` is 0 and ``</s>`` is 1.
    """

    def encode(self, text: str, *, special: bool = False) -> np.ndarray:
        if special:
            text = text.replace("<s>", "\0").replace("</s>", "\1")
        return np.array([ord(letter) for letter in text], np.int64)


def shown(parts: Parts) -> list[str]:
    """Return the parts as text, with photos as their numbers and answers in braces."""
    found = []
    for part, is_answer in zip(parts.parts, parts.answers, strict=True):
        text = (
            str(part.number)
            if isinstance(part, Photo)
            else "".join(map(chr, part)).replace("\0", "<s>").replace("\1", "</s>")
        )
        found.append(f"{{{text}}}" if is_answer else text)
    return found


def built(system: str | None, *exchanges: Exchange) -> list[str]:
    return shown(parts_from_exchanges(Letters(), PIECES, END, system, exchanges))


def test_photos_stand_in_front_of_the_question_and_the_system_text_is_a_part_alone() -> None:
    assert built("sys", Exchange("what?", 2)) == ["<s>S:sys</s>U:", "[", "0", "][", "1", "]what?</s>A:"]


def test_answers_end_with_their_token_and_the_next_turn_begins_behind_it() -> None:
    found = built(None, Exchange("a?", 1, "x"), Exchange("b?", 1, "y"), Exchange("c?"))
    assert found == ["<s>U:", "[", "0", "]a?</s>A:", "{x</s>}", "U:[", "1", "]b?</s>A:", "{y</s>}", "U:c?</s>A:"]


def test_words_of_people_are_no_special_tokens() -> None:
    (_, asked) = parts_from_exchanges(Letters(), PIECES, END, "a</s>b", [Exchange("</s>")]).parts
    assert isinstance(asked, np.ndarray) and list(asked[:4]) == [ord(letter) for letter in "</s>"]
