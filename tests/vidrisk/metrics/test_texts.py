"""Tests of ROUGE-L and chrF: values computed by hand, and properties that hold for any texts."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.metrics.subsequence import lcs_length, lcs_pairs
from vidrisk.metrics.texts import chrf, rouge_l, tokens_from_text

TEXTS = st.text(st.sampled_from("ab cd,.裂缝墙体 ÉﬁA1"), max_size=30)
FEW = st.lists(st.integers(0, 3), max_size=40)


def lcs_by_table(a: list[int], b: list[int]) -> int:
    row = [0] * (len(a) + 1)
    for item in b:
        before = row
        row = [0]
        for place, other in enumerate(a):
            row.append(before[place] + 1 if item == other else max(before[place + 1], row[place]))
    return row[-1]


@given(FEW, FEW)
def test_subsequences_are_those_of_the_table_of_lengths(a: list[int], b: list[int]) -> None:
    pairs = lcs_pairs(a, b)
    assert lcs_length(a, b) == len(pairs) == lcs_by_table(a, b)
    assert all(a[i] == b[j] for i, j in pairs)
    assert all(one[0] < two[0] and one[1] < two[1] for one, two in pairwise(pairs))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Cracks, in the WALL (2 mm)", ["cracks", "in", "the", "wall", "2", "mm"]),
        ("墙体有裂缝。", ["墙", "体", "有", "裂", "缝"]),
        ("3号楼wall裂缝", ["3", "号", "楼", "wall", "裂", "缝"]),
        ("ＷＡＬＬ１", ["wall1"]),
        ("naïve nai\u0308ve", ["naïve", "naïve"]),
        ("Tôi đi", ["tôi", "đi"]),
        ("。，!", []),
    ],
)
def test_words_of_latin_and_characters_of_chinese_are_tokens(text: str, tokens: list[str]) -> None:
    assert tokens_from_text(text) == tokens


@pytest.mark.parametrize(
    ("reference", "candidate", "expected"),
    [
        ("police killed the gunman", "police kill the gunman", 3 / 4),  # Lin 2004, section 3.1: S2
        ("police killed the gunman", "the gunman kill police", 2 / 4),  # S3
        ("police killed the gunman", "the gunman police killed", 2 / 4),  # S4
        ("墙体有竖向裂缝", "墙体有裂缝", 2 * 5 / (7 + 5)),
        ("安排维修", "安排维修", 1.0),
        ("安排维修", "repair it", 0.0),
        ("安排维修", "", 0.0),
        ("!", "。", 1.0),
    ],
)
def test_rouge_l_by_hand(reference: str, candidate: str, expected: float) -> None:
    assert rouge_l(reference, candidate) == pytest.approx(expected, abs=1e-12)


def test_chrf_by_hand() -> None:
    # "abcd" beside "abce": 3 of 4 characters, 2 of 3 pairs, 1 of 2 triples, none of one quadruple; P = R, so F = P.
    assert chrf("abcd", "ab ce") == pytest.approx(float((Fraction(3, 4) + Fraction(2, 3) + Fraction(1, 2)) / 4))
    # "裂缝宽" beside "裂缝": P = (1 + 1) / 2, R = (2/3 + 1/2) / 2 = 7/12; F = 5 P R / (4 P + R) = (35/12) / (55/12).
    assert chrf("裂缝宽", "裂缝") == pytest.approx(35 / 55)
    # "aab" beside "aaab": every n-gram counts as often as it is there: 3/4, 2/3 of aa aa ab, 1/2 of aaa aab; R = 1, 1,
    # 1.
    precision = (Fraction(3, 4) + Fraction(2, 3) + Fraction(1, 2)) / 3
    assert chrf("aab", "aaab") == pytest.approx(float(5 * precision / (4 * precision + 1)))
    assert chrf("Wall", "wall") < 1 == chrf("a wall", "aw all") == chrf("", " ")
    assert chrf("a", "") == chrf("", "a") == chrf("abc", "xyz") == 0


@given(TEXTS, TEXTS)
def test_scores_are_shares_and_one_for_equal_texts(a: str, b: str) -> None:
    for score in (rouge_l, chrf):
        assert 0 <= score(a, b) <= 1 + 1e-12 and score(a, a) == pytest.approx(1)
    assert rouge_l(a, b) == pytest.approx(rouge_l(b, a))
    tokens = set(tokens_from_text(a)), set(tokens_from_text(b))
    assert (rouge_l(a, b) > 0) == bool(tokens[0] & tokens[1] or not tokens[0] | tokens[1])


@given(st.text(st.sampled_from("abc裂缝"), min_size=6, max_size=30), st.integers(1, 5))
def test_a_candidate_that_lacks_words_loses_recall_and_one_that_adds_some_loses_less(text: str, size: int) -> None:
    extra = "x" * size
    assert chrf(text, text + extra) >= chrf(text + extra, text)  # beta 2: recall weighs more
    assert chrf(text, text + extra) < 1 and rouge_l(text, f"{text} {extra}") < 1


def test_long_texts_are_compared_in_no_time() -> None:
    a, b = "墙体裂缝宽度" * 600, "裂缝墙体长度宽" * 500
    assert 0 < rouge_l(a, b) < 1 and 0 < chrf(a, b) < 1
