"""Tests of the marks on text that the other of two texts lacks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.report.differences import MAX_SHOWN_CHARS, mark_differences, pieces_from_text

TEXTS = st.text(st.sampled_from("ab ,裂缝墙\n1."), max_size=40)


def marked(pieces: tuple[tuple[str, bool], ...]) -> str:
    return "".join(f"[{text}]" if is_marked else text for text, is_marked in pieces)


@pytest.mark.parametrize(
    ("truth", "found", "left", "right"),
    [
        ("墙体有竖向裂缝", "墙体有裂缝", "墙体有[竖向]裂缝", "墙体有裂缝"),
        (
            "A long crack in the wall",
            "A crack in the south wall.",
            "A [long] crack in the wall",
            "A crack in the [south] wall[.]",
        ),
        ("repair it now please", "repair it later maybe", "repair it [now please]", "repair it [later maybe]"),
        ("same", "same", "same", "same"),
        ("no word in common", "完全不同", "[no word in common]", "[完全不同]"),
        ("", "new", "", "[new]"),
    ],
)
def test_differences_are_marked(truth: str, found: str, left: str, right: str) -> None:
    sides = mark_differences(truth, found)
    assert (marked(sides.truth), marked(sides.found)) == (left, right)


@given(TEXTS, TEXTS)
def test_nothing_of_the_texts_is_lost_and_what_is_not_marked_is_common(truth: str, found: str) -> None:
    sides = mark_differences(truth, found)
    assert "".join(text for text, _ in sides.truth) == truth and "".join(text for text, _ in sides.found) == found
    assert "".join(pieces_from_text(truth)) == truth
    kept = ["".join(text for text, is_marked in side if not is_marked).split() for side in (sides.truth, sides.found)]
    assert "".join(kept[0]) == "".join(kept[1])
    if truth == found:
        assert not any(is_marked for _, is_marked in sides.truth)


def test_long_texts_are_cut_and_counted() -> None:
    sides = mark_differences("裂缝" * 2000, "裂缝")
    assert (sides.truth_more, sides.found_more) == (4000 - MAX_SHOWN_CHARS, 0)
    assert sum(len(text) for text, _ in sides.truth) == MAX_SHOWN_CHARS
