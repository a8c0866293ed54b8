"""Labels that say left or right: what they are called when a picture is mirrored."""

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


def mirrored_label(label: str, labels: Sequence[str]) -> str | None:
    """Return what a label is called in a mirrored picture: itself without a direction; None where that is none of the labels."""
    if not _WORD.search(label):
        return label
    known = {each.casefold(): each for each in labels}
    return next((known[name.casefold()] for name in sorted(_turned(label)) if name.casefold() in known), None)


def mirrored_labels(labels: Sequence[str]) -> list[int] | None:
    """Number, for each label, the one that it becomes in a mirrored picture; None where a direction has no counterpart."""
    found = [mirrored_label(label, labels) for label in labels]
    return None if None in found else [labels.index(label) for label in found if label is not None]


def _turned(label: str) -> set[str]:
    """Names of a label with every direction exchanged for one of its opposites."""
    names = {""}
    end = 0
    for match in _WORD.finditer(label):
        opposites = {other for pair in PAIRS for one, other in (pair, pair[::-1]) if one == match[0].casefold()}
        names = {name + label[end : match.start()] + _cased(other, match[0]) for name in names for other in opposites}
        end = match.end()
    return {name + label[end:] for name in names}


def _cased(word: str, like: str) -> str:
    return word.capitalize() if like[:1].isupper() else word
