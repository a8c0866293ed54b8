"""Features of whole inputs in the cache: the half of an entry that is written by the process that encodes.

The other half is ``decode.window_cache``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from vidrisk.decode.messages import InputEnd
from vidrisk.files.cache import ArrayCache, key_of
from vidrisk.inference.encode import EncodedFrames

MAX_INPUT_BYTES = 32 << 20  # features of half an hour at 4 frames/s


@dataclass(eq=False)
class _Parts:
    parts: list[EncodedFrames] = field(default_factory=list)
    bytes: int = 0


class KeptFeatures:
    """An ``encode.FeatureSink`` that caches features, except those of long inputs.

    Features of an input are held in memory until it ends.
    """

    def __init__(self, cache: ArrayCache) -> None:
        self._cache = cache
        self._open: dict[int, _Parts] = {}

    def append(self, input_id: int, frames: EncodedFrames) -> None:
        of_input = self._open.setdefault(input_id, _Parts())
        of_input.bytes += frames.features.nbytes
        if of_input.bytes <= MAX_INPUT_BYTES:
            of_input.parts.append(frames)
        else:
            of_input.parts.clear()

    def discard(self, input_id: int) -> None:
        self._open.pop(input_id, None)

    def finish(self, input_id: int, end: InputEnd) -> None:
        parts = self._open.pop(input_id, _Parts()).parts
        if parts and end.key and end.state == "ok":
            self._cache.put(
                key_of(end.key, "features"),
                {
                    name: np.concatenate([getattr(part, name) for part in parts])
                    for name in ("indices", "time_s", "features")
                },
            )
