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

from vidrisk.cache import ArrayCache, key_of
from vidrisk.frames import Frame, FrameWindow, is_image
from vidrisk.frames.media import check_file
from vidrisk.infer.sources import stamp_of
from vidrisk.infer.wire import KnownFrame, ReadSettings, WindowsKept
from vidrisk.runtimes.bundle import sha256_of

if TYPE_CHECKING:  # a worker has no use for what lies behind these
    from vidrisk.infer.decode import ReadEnd
    from vidrisk.infer.encode import EncodedFrames

MAX_INPUT_BYTES = 32 << 20  # of features: half an hour at 4 frames/s


def through_cache(cache: ArrayCache, path: str, settings: ReadSettings,
                  items: Iterable[Frame | FrameWindow]) -> Iterator[Frame | KnownFrame | FrameWindow | WindowsKept]:
    """The items of an input, from the cache where it is known there, and kept there where it is not.

    Args:
        items: of the input; asked for only when it is not known.

    Raises:
        UnreadableError, OSError: it cannot be read.
    """
    check_file(Path(path))
    before = stamp_of(Path(path).stat())
    key = key_of("input", sha256_of(Path(path)), "photo" if is_image(path) else "video", settings.cache_salt)
    known = _known_input(cache, key, settings.features)
    if known:
        yield from _replayed(*known)
        return
    windows: list[FrameWindow] = []
    for item in items:
        if isinstance(item, FrameWindow):
            windows.append(item)
        yield item
    is_same = stamp_of(Path(path).stat()) == before  # else they may be of another content than the key says
    if windows and is_same and not any(window.damage for window in windows):
        cache.put(key_of(key, "windows"), {
            "interval_s": np.array([(w.start_s, w.end_s) for w in windows], np.float64),  # None becomes nan
            "shown": np.array([w.indices for w in windows], np.int64)})
        yield WindowsKept(key)


def _known_input(cache: ArrayCache, key: str, width: int) -> tuple[list[KnownFrame], list[FrameWindow]] | None:
    windows, frames = cache.get(key_of(key, "windows")), cache.get(key_of(key, "features"))
    if windows is None or frames is None or frames["features"].shape[1:] != (width,) or (
            not np.isin(windows["shown"], frames["indices"]).all()):
        return None
    return list(map(KnownFrame, frames["indices"].tolist(), frames["time_s"].tolist(), frames["features"])), [
        FrameWindow(None if np.isnan(start_s) else start_s, None if np.isnan(end_s) else end_s, tuple(shown))
        for (start_s, end_s), shown in zip(windows["interval_s"].tolist(), windows["shown"].tolist(), strict=True)]


def _replayed(frames: Sequence[KnownFrame], windows: Sequence[FrameWindow]) -> Iterator[KnownFrame | FrameWindow]:
    """Every window behind the last of its frames, as ``frames.read_frames`` orders them."""
    remaining = iter(frames)
    given = -1
    for window in windows:
        while given < window.indices[-1]:
            frame = next(remaining)
            given = frame.index
            yield frame
        yield window


@dataclass(eq=False)
class _Parts:
    parts: list[EncodedFrames] = field(default_factory=list)
    bytes: int = 0


class KeptFeatures:
    """The run's half of the entries: an ``encode.FeatureSink``. Of long inputs nothing is kept: they would have to be held."""

    def __init__(self, cache: ArrayCache) -> None:
        self._cache = cache
        self._open: dict[int, _Parts] = {}

    def append(self, row_id: int, frames: EncodedFrames) -> None:
        of_input = self._open.setdefault(row_id, _Parts())
        of_input.bytes += frames.features.nbytes
        if of_input.bytes <= MAX_INPUT_BYTES:
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
