from __future__ import annotations

import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.doctor.versions import OPERATORS, range_from_text, release_from_version

NUMBERS = st.lists(st.integers(0, 99), min_size=1, max_size=4)


def text_of(numbers: list[int]) -> str:
    return ".".join(map(str, numbers))


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("10.13.3.9-1+cuda13.0", (10, 13, 3, 9)),
        ("2.9.0a0+git5a1b", (2, 9, 0)),
        ("v7.2", (7, 2)),
        (" 580.95.05\n", (580, 95, 5)),
        ("1.32.0.dev20261101", (1, 32, 0)),
        ("2026.4.1-22982-abc", (2026, 4, 1)),
        ("1!2.0", None),
        ("unknown", None),
        ("", None),
        ("[N/A]", None),
        ("9999999999999999999999", None),
    ],
)
def test_a_version_is_the_numbers_that_it_begins_with(version: str, release: tuple[int, ...] | None) -> None:
    assert release_from_version(version) == release


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">=10.3,<10.5", ("10.3", "10.3.0.30", "10.4.0", "10.4.9.9"), ("10.2.9", "10.5", "10.5.0.18", "11.0")),
        ("==10.13.3", ("10.13.3", "10.13.3.9"), ("10.13.2", "10.13", "10.13.30")),
        ("<=36.4", ("36.4", "36.4.7", "36.3"), ("36.5",)),
        (">36.4", ("36.5", "39"), ("36.4", "36.4.7")),
        ("!=1.27, >=1.20", ("1.28", "1.20.1"), ("1.27.0", "1.19")),
    ],
)
def test_ranges(text: str, inside: tuple[str, ...], outside: tuple[str, ...]) -> None:
    versions = range_from_text(text)
    assert [version for version in inside if version not in versions] == []
    assert [version for version in outside if version in versions] == []


@given(NUMBERS, NUMBERS)
def test_a_version_is_below_equal_or_above_and_nothing_else(version: list[int], bound: list[int]) -> None:
    holds = {sign: text_of(version) in range_from_text(f"{sign}{text_of(bound)}") for sign in OPERATORS}
    assert sum(holds[sign] for sign in ("<", "==", ">")) == 1
    assert (holds[">="], holds["<="], holds["!="]) == (not holds["<"], not holds[">"], not holds["=="])
    if len(version) == len(bound):
        assert holds["<"] == operator.lt(version, bound)


@given(NUMBERS, st.lists(st.tuples(st.sampled_from(list(OPERATORS)), NUMBERS), min_size=1, max_size=3))
def test_a_comma_means_and_and_the_text_of_a_range_is_the_range(
    version: list[int], clauses: list[tuple[str, list[int]]]
) -> None:
    parts = [f"{sign}{text_of(numbers)}" for sign, numbers in clauses]
    whole = range_from_text(",".join(parts))
    assert (text_of(version) in whole) == all(text_of(version) in range_from_text(part) for part in parts)
    assert range_from_text(str(whole)) == whole


@given(
    NUMBERS,
    st.sampled_from(["", ".dev3", "rc1", "+cu128", "-1+cuda13.0", "a0+git12.5", " (unofficial)", "\n"]),
    NUMBERS,
)
def test_what_stands_behind_the_numbers_changes_nothing(version: list[int], suffix: str, bound: list[int]) -> None:
    versions = range_from_text(f">={text_of(bound)}")
    assert (text_of(version) + suffix in versions) == (text_of(version) in versions)


@given(st.text())
def test_no_text_is_a_version_that_ends_in_a_crash(text: str) -> None:
    assert (text in range_from_text(">=0")) == (release_from_version(text) is not None)


@pytest.mark.parametrize(
    "text", ["", "10.3", ">=", ">=10.3,", "~=1.2", ">=1.x", "=>1", ">=1 <2", ">=-1", "== 1.2.dev1", ">=1..2"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"allowed: for example >=10\.3,<10\.5"):
        range_from_text(text)
