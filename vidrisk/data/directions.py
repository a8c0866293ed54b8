"""Maps labels that contain left or right to their names in a mirrored picture."""

from __future__ import annotations

import re
from collections.abc import Sequence

PAIRS = (
    ("left", "right"),
    ("leftward", "rightward"),
    ("leftwards", "rightwards"),
    ("clockwise", "counterclockwise"),
    ("clockwise", "anticlockwise"),
    ("clockwise", "counter-clockwise"),
    ("左", "右"),
    ("顺时针", "逆时针"),
)
_WORDS = sorted({word for pair in PAIRS for word in pair}, key=len, reverse=True)
_WORD = re.compile(
    "|".join(rf"(?<![A-Za-z-]){word}(?![A-Za-z])" if word.isascii() else word for word in _WORDS), re.IGNORECASE
)


def mirror_label(label: str, labels: Sequence[str]) -> str | None:
    """Return the name of a label in a mirrored picture, or None if that is not one of the labels.

    A label without a direction keeps its name.
    """
    if not _WORD.search(label):
        return label
    known = {each.casefold(): each for each in labels}
    return next((known[name.casefold()] for name in sorted(_turn_directions(label)) if name.casefold() in known), None)


def mirror_labels(labels: Sequence[str]) -> list[int] | None:
    """Return, for each label, the index of its mirrored label, or None if a direction has no counterpart."""
    found = [mirror_label(label, labels) for label in labels]
    return None if None in found else [labels.index(label) for label in found if label is not None]


def _turn_directions(label: str) -> set[str]:
    """Return the names of a label with every direction replaced by one of its opposites."""
    names = {""}
    end = 0
    for match in _WORD.finditer(label):
        opposites = {other for pair in PAIRS for one, other in (pair, pair[::-1]) if one == match[0].casefold()}
        names = {
            name + label[end : match.start()] + _match_case(other, match[0]) for name in names for other in opposites
        }
        end = match.end()
    return {name + label[end:] for name in names}


def _match_case(word: str, like: str) -> str:
    return word.capitalize() if like[:1].isupper() else word
