"""Features of whole inputs through the cache: what an encoder saw in a file once, it need not see again.

An entry is found by the content of the file, the encoder and the specs. It has two halves, because two processes know them:
the worker that reads the file keeps its windows, the run that encodes the frames keeps their features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vidrisk.cache import MAX_PART_OF_BOUND, ArrayCache, content_digest, key_of
from vidrisk.frames import Frame, FrameWindow, is_image
from vidrisk.frames.media import check_file
from vidrisk.infer.wire import KnownFrame, WindowsKept

if TYPE_CHECKING:
    from vidrisk.infer.decode import ReadEnd  # a worker has no use for what lies behind it


@dataclass(frozen=True, eq=False)
class EncodedFrames:
    """Frames of one input: places on its timeline int64 (n,), presentation times float64 (n,), features float32 (n, D)."""

    indices: npt.NDArray[np.int64]
    time_s: npt.NDArray[np.float64]
    features: npt.NDArray[np.float32]


def through_cache(cache: ArrayCache, path: str, salt: str, max_features_bytes: int,
                  items: Iterable[Frame | FrameWindow]) -> Iterator[Frame | KnownFrame | FrameWindow | WindowsKept]:
    """The items of an input, from the cache where it is known there, and kept there where it is not.

    Args:
        salt: stands for the encoder and the specs.
        max_features_bytes: of one frame; larger ones count as unknown.
        items: of the input; asked for only when it is not known.

    Raises:
        UnreadableError, OSError: it cannot be read.
    """
    check_file(Path(path))
    key = key_of("input", content_digest(Path(path)), "photo" if is_image(path) else "video", salt)
    known = _known_input(cache, key)
    if known and known[0].features[0].nbytes <= max_features_bytes:
        yield from _replayed(*known)
        return
    windows: list[FrameWindow] = []
    for item in items:
        if isinstance(item, FrameWindow):
            windows.append(item)
        yield item
    if windows and not any(window.damage for window in windows):
        cache.put(key_of(key, "windows"), {
            "interval_s": np.array([(w.start_s, w.end_s) for w in windows], np.float64),  # None becomes nan
            "shown": np.array([w.indices for w in windows], np.int64)})
        yield WindowsKept(key)


def _known_input(cache: ArrayCache, key: str) -> tuple[EncodedFrames, list[FrameWindow]] | None:
    windows, frames = cache.get(key_of(key, "windows")), cache.get(key_of(key, "features"))
    if windows is None or frames is None or not np.isin(windows["shown"], frames["indices"]).all():
        return None
    return EncodedFrames(**frames), [
        FrameWindow(None if np.isnan(start_s) else start_s, None if np.isnan(end_s) else end_s, tuple(shown))
        for (start_s, end_s), shown in zip(windows["interval_s"].tolist(), windows["shown"].tolist(), strict=True)]


def _replayed(frames: EncodedFrames, windows: Sequence[FrameWindow]) -> Iterator[KnownFrame | FrameWindow]:
    """Every window behind the last of its frames, as ``frames.read_frames`` orders them."""
    known = map(KnownFrame, frames.indices.tolist(), frames.time_s.tolist(), frames.features)
    given = -1
    for window in windows:
        while given < window.indices[-1]:
            frame = next(known)
            given = frame.index
            yield frame
        yield window


@dataclass(eq=False)
class _Parts:
    parts: list[EncodedFrames] = field(default_factory=list)
    bytes: int = 0


class KeptFeatures:
    """The run's half of the entries: an ``encode.FeatureSink``. Inputs too large for the cache are let go."""

    def __init__(self, cache: ArrayCache) -> None:
        self._cache = cache
        self._open: dict[int, _Parts] = {}

    def append(self, row_id: int, frames: EncodedFrames) -> None:
        of_input = self._open.setdefault(row_id, _Parts())
        of_input.bytes += frames.features.nbytes
        if of_input.bytes <= self._cache.max_bytes // MAX_PART_OF_BOUND:
            of_input.parts.append(frames)
        else:
            of_input.parts.clear()

    def discard(self, row_id: int) -> None:
        self._open.pop(row_id, None)

    def finish(self, end: ReadEnd) -> None:
        parts = self._open.pop(end.row.id, _Parts()).parts
        if parts and end.key:
            self._cache.put(key_of(end.key, "features"), {
                name: np.concatenate([getattr(part, name) for part in parts]) for name in ("indices", "time_s", "features")})
