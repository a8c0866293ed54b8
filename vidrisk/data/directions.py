"""Directions in labels: their names in a mirrored picture, and the pictures that would contradict them."""

from __future__ import annotations

import re
from collections.abc import Sequence

SIDES = (("left", "right"), ("leftward", "rightward"), ("leftwards", "rightwards"), ("左", "右"))
ROTATIONS = (
    ("clockwise", "counterclockwise"),
    ("clockwise", "anticlockwise"),
    ("clockwise", "counter-clockwise"),
    ("cw", "ccw"),
    ("顺时针", "逆时针"),
)
HEIGHTS = (("up", "down"), ("upward", "downward"), ("upwards", "downwards"), ("向上", "向下"))
PAIRS = (*SIDES, *ROTATIONS)
Pairs = Sequence[tuple[str, str]]


def _pattern(pairs: Pairs) -> re.Pattern[str]:
    """Match the words of pairs where they stand alone, also in ``turn_left``, ``turn-left`` and ``TurnLeft``."""
    words = sorted({word for pair in pairs for word in pair}, key=len, reverse=True)
    return re.compile("|".join(map(_word_pattern, words)))


def _word_pattern(word: str) -> str:
    if not word.isascii():
        return word
    title = word.capitalize()
    return rf"(?<![A-Za-z])(?i:{word})(?![A-Za-z])|(?<![A-Za-z])(?:{word}|{title})(?=[A-Z])|(?<=[a-z]){title}(?![a-z])"


_MIRRORED, _SIDE, _ROTATION, _HEIGHT = map(_pattern, (PAIRS, SIDES, ROTATIONS, HEIGHTS))


def mirror_label(label: str, labels: Sequence[str]) -> str | None:
    """Return the name of a label in a mirrored picture, or None if that is not one of the labels.

    A label without a direction keeps its name.
    """
    if not _MIRRORED.search(label):
        return label
    known = {each.casefold(): each for each in labels}
    return next((known[name.casefold()] for name in sorted(_turn_directions(label)) if name.casefold() in known), None)


def mirror_labels(labels: Sequence[str]) -> list[int] | None:
    """Return, for each label, the index of its mirrored label, or None if a direction has no counterpart."""
    found = [mirror_label(label, labels) for label in labels]
    return None if None in found else [labels.index(label) for label in found if label is not None]


def survives_rotation(label: str) -> bool:
    """Return whether a label is still true of a picture turned by 90 or 180 degrees: left, right, up, down are not."""
    return not (_SIDE.search(label) or _HEIGHT.search(label))


def survives_upside_down(label: str) -> bool:
    """Return whether a label is still true of a picture mirrored top to bottom: rotations, up and down are not."""
    return not (_ROTATION.search(label) or _HEIGHT.search(label))


def _turn_directions(label: str) -> set[str]:
    """Return the names of a label with every direction replaced by one of its opposites."""
    names = {""}
    end = 0
    for match in _MIRRORED.finditer(label):
        opposites = {other for pair in PAIRS for one, other in (pair, pair[::-1]) if one == match[0].casefold()}
        names = {
            name + label[end : match.start()] + _match_case(other, match[0]) for name in names for other in opposites
        }
        end = match.end()
    return {name + label[end:] for name in names}


def _match_case(word: str, like: str) -> str:
    return word.capitalize() if like[:1].isupper() else word
