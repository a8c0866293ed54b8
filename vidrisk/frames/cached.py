"""Cached clips: a file is decoded only once, across processes."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidrisk import __version__
from vidrisk.files.cache import ArrayCache, key_of
from vidrisk.frames.interval import Interval
from vidrisk.frames.media import check_file, kind_of, name_of
from vidrisk.frames.reader import decoder_versions, read_clips
from vidrisk.runtimes.contract.bundle import sha256_of
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import UnreadableError

log = logging.getLogger(__name__)

_Stamp = tuple[Path, int, int]  # path, bytes, modification time in ns: identifies the content


class CachedClips:
    """The first clip of each photo and video, with frames as a contract specifies."""

    def __init__(self, contract: Contract, cache: ArrayCache) -> None:
        self.contract, self._cache = contract, cache
        self._digests: dict[_Stamp, str] = {}
        specs = [asdict(contract.pixel), asdict(contract.time) if contract.time else None]
        self._specs = json.dumps([*specs, __version__, *decoder_versions()], sort_keys=True)

    def frames(self, path: Path, count: int, interval: Interval | None = None) -> npt.NDArray[np.uint8]:
        """Return ``count`` evenly spaced frames of a clip, or of an interval of it.

        The result is uint8 (min(count, T), H, W, 3): all T frames if there are fewer.

        Raises:
            UnreadableError: as ``read_clips``.
        """
        stamp = _stamp(path)
        key = key_of(
            "frames",
            self._digest(stamp),
            str(kind_of(path)),
            self._specs,
            str(count),
            json.dumps(interval and interval.to_json()),
        )
        known = self._cache.get(key)
        if known is not None:
            return known["frames"]
        clip = next(read_clips(path, self.contract.pixel, self.contract.time, interval))
        if clip.note:
            log.warning("%s: %s", name_of(path), clip.note)
        length = len(clip.frames)
        frames: npt.NDArray[np.uint8] = clip.frames[np.linspace(0, length - 1, min(count, length)).astype(int)]
        if _stamp(path) == stamp:  # otherwise they may not belong to the content in the key
            self._cache.put(key, {"frames": frames})
        return frames

    def digest(self, path: Path) -> str:
        """Return the hex sha256 of the file, which is read once as long as it does not change.

        Raises:
            UnreadableError: it cannot be read.
        """
        return self._digest(_stamp(path))

    def _digest(self, stamp: _Stamp) -> str:
        if stamp not in self._digests:
            try:
                self._digests[stamp] = sha256_of(stamp[0])
            except OSError as error:
                raise UnreadableError(f"{name_of(stamp[0])} cannot be read: {error.strerror}") from error
        return self._digests[stamp]


def _stamp(path: Path) -> _Stamp:
    check_file(path)
    info = path.stat()
    return path, info.st_size, info.st_mtime_ns
