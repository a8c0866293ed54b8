"""Video decoding with decord (the extra ``decord``), for files that it reads correctly.

The timeline is always PyAV's: decord keeps times as float32 and has none for AVI. Its frames are wrong after some seeks
in AVI, MPEG-TS, MPEG-PS, WMV, HEVC and MPEG-4 part 2 (tested with numbered frames), so those files are decoded by PyAV,
as are files that are cut, rotated or mirrored, or have several video streams, times that had to be repaired, fields in
packets of their own, or colour tags that FFmpeg's scaler does not know. decord silently repeats a frame that it cannot
decode: its ``Decoded`` is never ``lost``. It converts to RGB with FFmpeg's fast method, whose rounding depends on the
processor: its pixels are off by one level on average, while PyAV's are the same everywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from vidrisk.frames.media import name_of
from vidrisk.frames.source import Decoded, Timeline
from vidrisk.frames.video_pyav import PyAVSource
from vidrisk.runtimes.contract.errors import require

logger = logging.getLogger(__name__)

CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
CODECS = ("h264", "vp9")
# Number of full-size frames held at once.
BATCH = 8


class DecordSource:
    """An open video, decoded by decord if that is reliable, else by PyAV."""

    def __init__(self, path: Path) -> None:
        decord = require("decord", "decord")
        decord.logging.set_level(decord.logging.QUIET)
        self._error: type[Exception] = decord.DECORDError
        self._path = path
        self._pyav = PyAVSource(path)
        self._reader: Any = None
        timeline = self._pyav.timeline
        container, codec = self._pyav.kind
        is_whole = timeline.readable_s == timeline.duration_s
        if container in CONTAINERS and codec in CODECS and is_whole and self._pyav.is_plain:
            try:
                reader = decord.VideoReader(f"file:{path.absolute()}", num_threads=1)
                # decord gives rotated frames a fourth channel
                if len(reader) == len(timeline.times_s) and reader[0].shape[2] == 3:
                    self._reader = reader
            except (self._error, RuntimeError) as error:
                logger.debug("%s: decord: %s", name_of(path), error)
        if self._reader is None:
            logger.info("%s is decoded by PyAV instead of decord", name_of(path))

    @property
    def timeline(self) -> Timeline:
        return self._pyav.timeline

    @property
    def note(self) -> str:
        """See ``VideoSource.note``."""
        return self._pyav.note

    def keyframes(self) -> npt.NDArray[np.intp]:
        """See ``VideoSource.keyframes``."""
        return self._pyav.keyframes()

    def frames_at(self, indices: Sequence[int]) -> Iterator[Decoded]:
        """See ``VideoSource.frames_at``."""
        for start in range(0, len(indices), BATCH):
            batch = list(indices[start : start + BATCH])
            if self._reader is not None:
                try:
                    frames = self._reader.get_batch(batch).asnumpy()
                except (self._error, RuntimeError) as error:
                    logger.info("%s is decoded by PyAV from here on: decord: %s", name_of(self._path), error)
                    self._reader = None
            if self._reader is None:
                yield from self._pyav.frames_at(indices[start:])
                return
            for index, rgb in zip(batch, frames, strict=True):
                yield Decoded(index, index, np.ascontiguousarray(rgb), lost=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._reader = None
        self._pyav.__exit__(kind, error, at)
