"""Differences between two texts: runs of words, or of Chinese characters, that the other text lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from vidrisk.metrics.subsequence import lcs_pairs
from vidrisk.metrics.texts import is_unspaced, is_word

MAX_SHOWN_CHARS = 1200
LEAST_COMMON = 0.2  # of the pieces of the shorter text; with less, the texts share words only by chance

Marked = tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Sides:
    """Two texts as pieces, each with whether the other text lacks it, and how many characters of each are not shown."""

    truth: Marked
    found: Marked
    truth_more: int = 0
    found_more: int = 0


def mark_differences(truth: str, found: str) -> Sides:
    """Mark the pieces that only one of two texts has.

    The pieces are words, Chinese characters and punctuation, aligned along a longest common subsequence. Texts longer
    than ``MAX_SHOWN_CHARS`` are cut. Texts with little in common are marked as a whole.
    """
    shown = truth[:MAX_SHOWN_CHARS], found[:MAX_SHOWN_CHARS]
    a, b = pieces_from_text(shown[0]), pieces_from_text(shown[1])
    pairs = lcs_pairs(a, b)
    common = sum(1 for i, _ in pairs if not a[i].isspace())
    least = min(sum(1 for piece in side if not piece.isspace()) for side in (a, b))
    if common <= LEAST_COMMON * least:
        pairs = []
    return Sides(
        _mark(a, {i for i, _ in pairs}),
        _mark(b, {j for _, j in pairs}),
        len(truth) - len(shown[0]),
        len(found) - len(shown[1]),
    )


def pieces_from_text(text: str) -> list[str]:
    """Return a text as words, Chinese characters, white space and single signs, which concatenate to the text."""
    pieces: list[str] = []
    for kind, run in groupby(text, key=_kind):
        text_of_run = "".join(run)
        pieces += [text_of_run] if kind in ("word", "space") else text_of_run
    return pieces


def _kind(character: str) -> str:
    if is_unspaced(character):
        return "character"
    return "word" if is_word(character) else "space" if character.isspace() else "sign"


def _mark(pieces: Sequence[str], common: set[int]) -> Marked:
    """Join adjacent pieces with the same mark.

    White space is marked if it stands between two marked pieces, and only then.
    """
    marks = [place not in common for place in range(len(pieces))]
    for place, piece in enumerate(pieces):
        if piece.isspace():
            marks[place] = 0 < place < len(pieces) - 1 and marks[place - 1] and place + 1 not in common
    return tuple(
        ("".join(pieces[place] for place in run), is_marked)
        for is_marked, run in groupby(range(len(pieces)), key=marks.__getitem__)
    )
