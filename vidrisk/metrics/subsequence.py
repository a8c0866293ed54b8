"""Exact longest common subsequences by bit vectors: each row of the table of lengths is one integer.

Hyyrö, Bit-parallel LCS-length computation revisited, AWOCA 2004: bit i of a row is 0 if the length grows at position i.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence


def lcs_length(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Return the length of the longest common subsequence.

    Time grows with ``len(b)`` times ``len(a)`` / 64.
    """
    row = (1 << len(a)) - 1
    for row in _rows(a, b):  # noqa: B007 - only the last row is needed
        pass
    return len(a) - row.bit_count()


def lcs_pairs(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Return the positions in ``a`` and in ``b`` of one longest common subsequence, both ascending.

    Memory grows with the product of the lengths.
    """
    rows = [(1 << len(a)) - 1, *_rows(a, b)]
    pairs: list[tuple[int, int]] = []
    i, j = len(a), len(b)
    while i and j:
        if rows[j] >> (i - 1) & 1:
            i -= 1
            continue
        j -= 1
        if rows[j] >> (i - 1) & 1:
            i -= 1
            pairs.append((i, j))
    return pairs[::-1]


def _rows(a: Sequence[Hashable], b: Sequence[Hashable]) -> Iterator[int]:
    places: defaultdict[Hashable, int] = defaultdict(int)
    for place, item in enumerate(a):
        places[item] |= 1 << place
    whole = (1 << len(a)) - 1
    row = whole
    for item in b:
        matched = row & places.get(item, 0)
        row = ((row + matched) | (row - matched)) & whole
        yield row
