"""Validation of a worker's messages about the input it reads; a file may have taken the worker over."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.decode import cuts
from vidrisk.decode.cuts import Cut, cut_from_pieces
from vidrisk.decode.jpegs import Jpeg, jpeg_from_pieces, most_bytes, piece_from_value
from vidrisk.decode.messages import (
    FINAL_STATES,
    CutInput,
    CutSettings,
    InputEnd,
    Item,
    KnownFrame,
    PhotoSettings,
    ReadSettings,
    Request,
    Settings,
    ThumbnailInput,
)
from vidrisk.decode.session import Slot
from vidrisk.decode.thumbnails import MAX_KEPT_FRAMES, Thumbnail, thumbnail_from_values
from vidrisk.decode.wire import MAX_REASON, Slots, features_from_slot, finite_number, frame_from_slot, whole_number
from vidrisk.frames import Frame, FrameWindow
from vidrisk.frames.media import MAX_DURATION_S, MAX_FRAMES_PER_VIDEO
from vidrisk.frames.sampling import MAX_WINDOWS
from vidrisk.runtimes.contract.printable import printable
from vidrisk.runtimes.contract.specs import TimeSpec

DIGEST_DIGITS = frozenset("0123456789abcdef")
LATEST_S = MAX_DURATION_S + 1.0  # sums of float64 round
MAX_DECODE_S = 1e8
MAX_BEGINS = 8  # per input, whose file may be replaced before it is opened


class Starved(Exception):
    """Raised when the decoder of an input needs more memory than it may have."""


@dataclass(eq=False)
class Memory:
    """The slots that a worker and the pool share for one session.

    Attributes:
        lump: number of slots that are reported free at a time. This keeps messages few: they must fit into the socket
            even if the worker is slow.
        filled: number of frames that have arrived; counted by the owner.
        told_free: number of these that the worker may overwrite; counted by the caller.
    """

    session: int
    slots: Slots
    count: int
    lump: int
    tell: Callable[[dict[str, Any]], None]
    filled: int = 0
    used: int = 0
    told_free: int = 0

    def free(self) -> None:
        """Record that one of its frames has been copied."""
        self.used += 1
        if self.used - self.told_free == self.lump:
            self.told_free = self.used
            self.tell({"free": [self.session, self.lump]})

    @property
    def is_full(self) -> bool:
        return self.filled - self.told_free >= self.count

    def next(self) -> npt.NDArray[np.uint8]:
        """Return the slot of the next frame.

        Raises:
            ValueError: no slot is free.
        """
        if self.is_full:
            raise ValueError("a frame where there is no room for it")
        self.filled += 1
        return self.slots.next()


@dataclass(eq=False)
class Reading:
    """What has arrived for the input that a worker reads.

    Attributes:
        begins: how often reading has begun.
        indices: indices of its frames that a window may still refer to.
        windows, thumbnails, signs: numbers of windows, thumbnails and signs of life that have arrived.
        pieces: pieces of its JPEG or PNG, until that is complete.
        jpegs: number of complete JPEGs.
        boxes: number of boxes that have been processed.
        start_s, end_s: interval of its last window; the end is None before the first window, and for a photo.
    """

    size: int | None
    mtime_ns: int | None
    began_s: float = field(default_factory=time.monotonic)
    indices: list[int] = field(default_factory=list)
    begins: int = 1
    windows: int = 0
    thumbnails: int = 0
    signs: int = 0
    pieces: list[bytes] = field(default_factory=list)
    jpegs: int = 0
    boxes: int = 0
    start_s: float = 0.0
    end_s: float | None = None

    def again(self, size: int | None, mtime_ns: int | None) -> Reading:
        """Return a new state for a file that replaced this one before any of its items arrived.

        Raises:
            ValueError: items have arrived, or it has been replaced too often.
        """
        has_come = (
            self.indices or self.windows or self.thumbnails or self.signs or self.pieces or self.jpegs or self.boxes
        )
        if has_come or self.begins == MAX_BEGINS:
            raise ValueError("it begins what it has begun")
        return replace(self, size=size, mtime_ns=mtime_ns, begins=self.begins + 1)


def item_from_message(
    request: Request, settings: Settings, memory: Memory | None, reading: Reading, kind: str, value: Any
) -> tuple[Item, Slot | None] | None:
    """Validate a message about the input being read; return None if it is only a sign of life.

    Args:
        request: the input.
        settings: settings of its session.
        memory: slots that the worker shares for the session; None for calls that only return pictures.
        reading: what has arrived so far; updated.
        kind: key of the message.
        value: value of the message.

    Raises:
        ValueError, TypeError, KeyError, IndexError, AttributeError: the message is not one that a sane worker sends.
        Starved: the worker is about to end.
    """
    if kind == "alive" and isinstance(request, ThumbnailInput):
        reading.signs = whole_number(reading.signs + 1, len(request.moments_s))
        return None
    if isinstance(settings, PhotoSettings) and kind in ("piece", "jpeg"):
        jpeg = _jpeg(settings, reading, kind, value)
        return (jpeg, None) if jpeg else None
    if isinstance(settings, CutSettings) and isinstance(request, CutInput) and kind in ("piece", "cut"):
        cut = _cut(request, settings, reading, kind, value)
        return (cut, None) if cut else None
    if kind == "thumbnail":
        return _thumbnail(request, settings, reading, value), None
    if kind == "end":
        return _end(reading, value), None
    if kind == "starved":
        raise Starved
    if memory is None or not isinstance(settings, ReadSettings):
        raise ValueError(f"{kind} where pictures are wanted")
    if kind == "frame":
        index, time_s = next_index(reading, value[0], settings), finite_number(value[1])
        return Frame(index, time_s, frame_from_slot(memory.next(), settings.pixel.frame_shape)), memory
    if kind == "features":
        index, time_s = next_index(reading, value[0], settings), finite_number(value[1])
        features = features_from_slot(memory.next(), value[2], settings.features)
        return KnownFrame(index, time_s, features), memory
    if kind == "window":
        return _window(settings, reading, value), None
    raise ValueError(kind)


def _jpeg(settings: PhotoSettings, reading: Reading, kind: str, value: Any) -> Jpeg | None:
    """Return the JPEG once all its pieces have arrived; a photo has one."""
    if reading.jpegs:
        raise ValueError("a second picture")
    if kind == "piece":
        reading.pieces.append(piece_from_value(value))
        if sum(map(len, reading.pieces)) > most_bytes(settings.max_width, settings.max_height):
            raise ValueError("a picture of more bytes than its size can have")
        return None
    reading.jpegs = 1
    jpeg = jpeg_from_pieces(reading.pieces, value, settings.max_width, settings.max_height)
    reading.pieces = []
    return jpeg


def _cut(request: CutInput, settings: CutSettings, reading: Reading, kind: str, value: Any) -> Cut | None:
    """Return the part of a photo once all its pieces have arrived; boxes are processed in order."""
    if kind == "piece":
        reading.pieces.append(piece_from_value(value))
        if sum(map(len, reading.pieces)) > cuts.most_bytes(settings.max_side, settings.max_side):
            raise ValueError("a part of more bytes than its size can have")
        return None
    cut = cut_from_pieces(reading.pieces, value, reading.boxes, len(request.boxes), settings.max_side)
    reading.boxes, reading.pieces = cut.place + 1, []
    return cut


def _end(reading: Reading, values: Sequence[Any]) -> InputEnd:
    state, reason, decode_s, key, content = values
    if state not in FINAL_STATES or not 0 <= finite_number(decode_s) <= MAX_DECODE_S:
        raise ValueError(f"state {state!r} after {decode_s!r} s")
    for digest in (key, content):
        if type(digest) is not str or (digest and (len(digest) != 64 or not DIGEST_DIGITS.issuperset(digest))):
            raise ValueError(f"{digest!r} is no digest")
    return InputEnd(
        state, printable(str(reason)[:MAX_REASON]), float(decode_s), key, content, reading.size, reading.mtime_ns
    )


def _window(settings: ReadSettings, reading: Reading, values: Sequence[Any]) -> FrameWindow:
    """Return the only window of a photo, which has no interval, or the next window of a video."""
    start_s, end_s, indices = values
    shown = check_shown_indices(reading, indices, settings)
    reading.windows = whole_number(reading.windows + 1, most_windows(settings.time))
    if start_s is None and end_s is None and reading.windows == 1:
        return FrameWindow(None, None, shown)
    start_s, end_s = finite_number(start_s), finite_number(end_s)
    if not reading.start_s <= start_s < end_s <= LATEST_S or (reading.windows > 1 and reading.end_s is None):
        raise ValueError(f"a window from {start_s} to {end_s} s")
    reading.start_s, reading.end_s = start_s, end_s
    return FrameWindow(start_s, end_s, shown)


def most_windows(time: TimeSpec | None) -> int:
    """Return the largest number of windows that any input can have."""
    stride_s = time and (time.stride_s or time.window_s)
    return math.ceil(min(MAX_WINDOWS, MAX_DURATION_S / stride_s)) if stride_s else 1


def most_awaited(time: TimeSpec | None) -> int:
    """Return the largest number of frames that windows may still refer to.

    These are the frames of the windows that overlap with the last one or the next.
    """
    if time is None or time.window_s is None:
        return time.frames if time else 1
    overlap = min(MAX_WINDOWS, time.window_s / (time.stride_s or time.window_s))
    return 2 * time.frames * (math.ceil(overlap) + 1)


def _thumbnail(request: Request, settings: Settings, reading: Reading, values: Sequence[object]) -> Thumbnail:
    moments = len(request.moments_s) if isinstance(request, ThumbnailInput) else MAX_KEPT_FRAMES
    reading.thumbnails = whole_number(reading.thumbnails + 1, moments)
    if isinstance(request, ThumbnailInput):
        return thumbnail_from_values(values, request.max_bytes // moments)
    if not isinstance(settings, ReadSettings):
        raise ValueError("a thumbnail that nobody asked for")
    return thumbnail_from_values(values, max(settings.thumbnail_bytes, settings.frame_thumbnail_bytes))


def next_index(reading: Reading, value: object, settings: ReadSettings) -> int:
    """Check and record the index of a frame.

    Raises:
        ValueError: it does not follow the previous frames, or there are more frames than windows may refer to.
    """
    index = whole_number(value, MAX_FRAMES_PER_VIDEO)
    if reading.indices and index <= reading.indices[-1]:
        raise ValueError(f"frame {index} behind {reading.indices[-1]}")
    if len(reading.indices) == most_awaited(settings.time):
        raise ValueError(f"{len(reading.indices)} frames and no window")
    reading.indices.append(index)
    return index


def check_shown_indices(reading: Reading, values: Sequence[object], settings: ReadSettings) -> tuple[int, ...]:
    """Check the frame indices of a window; forget the frames before it.

    Raises:
        ValueError: they are not T frames that have arrived, in order.
    """
    shown = tuple(map(whole_number, values))
    moments = settings.time.frames if settings.time else 1
    if len(shown) != moments or list(shown) != sorted(shown) or not set(reading.indices).issuperset(shown):
        raise ValueError(f"a window of the frames {shown}")
    reading.indices = [index for index in reading.indices if index >= shown[0]]
    return shown
