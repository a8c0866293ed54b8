"""Keys and values of the beginnings that prompts share: computed once, and copied for every further prompt."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_BYTES = 2**28


class Prefixes:
    """Keeps what was computed of beginnings; those that were not needed for longest go first.

    Args:
        most_bytes: memory for all of them; one that takes more is not kept.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, npt.NDArray[np.float32]] = OrderedDict()

    def find(self, key: str) -> npt.NDArray[np.float32] | None:
        """Return what is kept of a beginning; None where nothing is."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, key: str, values: npt.NDArray[np.float32]) -> None:
        """Keep a beginning."""
        if values.nbytes <= self._most_bytes:
            self._kept[key] = values
        while sum(each.nbytes for each in self._kept.values()) > self._most_bytes:
            self._kept.popitem(last=False)

    def __len__(self) -> int:
        return len(self._kept)


def key_of(parts: Sequence[npt.NDArray[Any]]) -> str:
    """A text that is equal exactly when parts of prompts are."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part.dtype.str}{part.shape};".encode())
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()
