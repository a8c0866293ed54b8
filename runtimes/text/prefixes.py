"""Cache of keys and values of common prompt prefixes, which are computed once and copied into later prompts."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_BYTES = 2**28


class Prefixes:
    """LRU cache of prefixes.

    Args:
        most_bytes: maximum total size; a larger prefix is not stored.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, npt.NDArray[np.float32]] = OrderedDict()

    def find(self, key: str) -> npt.NDArray[np.float32] | None:
        """Return the cached keys and values of a prefix, or None."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, key: str, values: npt.NDArray[np.float32]) -> None:
        """Store a prefix."""
        if values.nbytes <= self._most_bytes:
            self._kept[key] = values
        while sum(each.nbytes for each in self._kept.values()) > self._most_bytes:
            self._kept.popitem(last=False)

    def __len__(self) -> int:
        return len(self._kept)


def key_of(parts: Sequence[npt.NDArray[Any]]) -> str:
    """Return a digest that is equal exactly if the parts of prompts are equal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part.dtype.str}{part.shape};".encode())
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()
