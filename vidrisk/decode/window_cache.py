"""Windows of whole inputs in the feature cache, so that no file has to be encoded twice.

An entry is identified by the content of the file, the encoder and the specs. It has two halves, written by two
processes: the worker that reads the file stores its windows, the process that encodes the frames stores their features
(``inference.feature_cache``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vidrisk.decode.messages import KnownFrame, ReadSettings
from vidrisk.files.cache import ArrayCache, key_of
from vidrisk.files.stamps import stamp_of
from vidrisk.frames import Frame, FrameWindow, Interval
from vidrisk.frames.media import check_file
from vidrisk.runtimes.contract.bundle import sha256_of


def through_cache(
    cache: ArrayCache,
    path: str,
    settings: ReadSettings,
    items: Iterable[Frame | FrameWindow],
    interval: Interval | None = None,
    on_kept: Callable[[str], None] = lambda key: None,
) -> Iterator[Frame | KnownFrame | FrameWindow]:
    """Yield the items of an input from the cache, or read them and store their windows there.

    Args:
        cache: the feature cache.
        path: path of the input.
        settings: how the input becomes frames.
        items: items of the input; consumed only on a cache miss.
        interval: part of the file that they cover.
        on_kept: called at the end with the key under which the windows of a completely read input were stored.

    Raises:
        UnreadableError, OSError: it cannot be read.
    """
    kind = check_file(Path(path))
    before = stamp_of(Path(path).stat())
    key = key_of("input", sha256_of(Path(path)), kind, settings.cache_salt, json.dumps(interval and interval.to_json()))
    known = _load_input(cache, key, settings)
    if known:
        yield from _replay(*known)
        return
    windows: list[FrameWindow] = []
    for item in items:
        if isinstance(item, FrameWindow):
            windows.append(item)
        yield item
    is_same = stamp_of(Path(path).stat()) == before  # otherwise they may not belong to the content in the key
    if windows and is_same and not any(window.damage or window.note for window in windows):
        cache.put(
            key_of(key, "windows"),
            {
                "interval_s": np.array([(w.start_s, w.end_s) for w in windows], np.float64),  # None becomes nan
                "shown": np.array([w.indices for w in windows], np.int64),
            },
        )
        on_kept(key)


def _load_input(
    cache: ArrayCache, key: str, settings: ReadSettings
) -> tuple[list[KnownFrame], list[FrameWindow]] | None:
    windows, frames = cache.get(key_of(key, "windows")), cache.get(key_of(key, "features"))
    moments = settings.time.frames if settings.time else 1
    if (
        windows is None
        or frames is None
        or frames["features"].shape[1:] != (settings.features,)
        or (windows["shown"].shape[1:] != (moments,) or not np.isin(windows["shown"], frames["indices"]).all())
    ):
        return None
    return list(map(KnownFrame, frames["indices"].tolist(), frames["time_s"].tolist(), frames["features"])), [
        FrameWindow(None if np.isnan(start_s) else start_s, None if np.isnan(end_s) else end_s, tuple(shown))
        for (start_s, end_s), shown in zip(windows["interval_s"].tolist(), windows["shown"].tolist(), strict=True)
    ]


def _replay(frames: Sequence[KnownFrame], windows: Sequence[FrameWindow]) -> Iterator[KnownFrame | FrameWindow]:
    """Yield every window after the last of its frames, in the order of ``frames.read_frames``."""
    remaining = iter(frames)
    given = -1
    for window in windows:
        while given < window.indices[-1]:
            frame = next(remaining)
            given = frame.index
            yield frame
        yield window
