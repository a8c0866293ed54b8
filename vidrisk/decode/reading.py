"""What a worker says of the input that it reads, checked: a file may have taken it over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.decode.messages import FINAL_STATES, InputEnd, Item, KnownFrame, ReadSettings, Request, Settings, ThumbnailInput
from vidrisk.decode.session import Slot
from vidrisk.decode.thumbnails import Thumbnail, thumbnail_from_values
from vidrisk.decode.wire import MAX_REASON, Slots, features_from_slot, finite_number, whole_number
from vidrisk.frames import Frame, FrameWindow
from vidrisk.runtimes.contract.printable import printable

CONTENT_DIGITS = frozenset("0123456789abcdef")


class Starved(Exception):
    """The decoder of an input wants more memory than it may have."""


@dataclass(eq=False)
class Memory:
    """The slots that a worker and the pool share for one session.

    Attributes:
        lump: slots that are told to be free at a time. Few messages: they must fit into the socket, whoever is slow.
        filled: frames that have come; the owner counts.
        told_free: of these, those that the worker may write over; the caller counts.
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
        """A frame of it has been copied."""
        self.used += 1
        if self.used - self.told_free == self.lump:
            self.told_free = self.used
            self.tell({"free": [self.session, self.lump]})

    @property
    def is_full(self) -> bool:
        return self.filled - self.told_free >= self.count

    def next(self) -> npt.NDArray[np.uint8]:
        """The slot of the next frame.

        Raises:
            ValueError: none is free.
        """
        if self.is_full:
            raise ValueError("a frame where there is no room for it")
        self.filled += 1
        return self.slots.next()


@dataclass(eq=False)
class Reading:
    """What has come of the input that a worker reads.

    Attributes:
        indices: of its frames that a window may still name.
        end_s: of its last window; None before there is one.
        thumbnails: that have come.
    """

    size: int | None
    mtime_ns: int | None
    began_s: float = field(default_factory=time.monotonic)
    indices: list[int] = field(default_factory=list)
    end_s: float | None = None
    thumbnails: int = 0


def item_from_message(request: Request, settings: Settings, memory: Memory | None, reading: Reading, kind: str,
                      value: Any) -> tuple[Item, Slot | None] | None:
    """What a message says of the input that is being read, checked; None where it only says that the worker is alive.

    Args:
        memory: that the worker shares for the input's session; None where thumbnails are wanted.

    Raises:
        ValueError, TypeError, KeyError, IndexError, AttributeError: no worker of ours says this.
        Starved: the worker is about to end.
    """
    if kind == "alive":
        return None
    if kind == "thumbnail":
        return _thumbnail(request, settings, reading, value), None
    if kind == "end":
        state, reason, decode_s, key, content = value
        if state not in FINAL_STATES:
            raise ValueError(f"state {state!r}")
        if content and (len(content) != 64 or not CONTENT_DIGITS.issuperset(content)):
            raise ValueError(f"content {content!r}")
        end = InputEnd(state, printable(str(reason)[:MAX_REASON]), finite_number(decode_s), str(key)[:MAX_REASON], content,
                       reading.size, reading.mtime_ns)
        return end, None
    if kind == "starved":
        raise Starved
    if memory is None or not isinstance(settings, ReadSettings):
        raise ValueError(f"{kind} where thumbnails are wanted")
    if kind == "frame":
        index, time_s = next_index(reading, value[0]), finite_number(value[1])
        return Frame(index, time_s, memory.next()), memory
    if kind == "features":
        index, time_s = next_index(reading, value[0]), finite_number(value[1])
        features = features_from_slot(memory.next(), value[2], settings.features)
        return KnownFrame(index, time_s, features), memory
    if kind == "window":
        start_s, end_s = (None if moment is None else finite_number(moment) for moment in value[:2])
        shown = shown_indices(reading, value[2], settings)
        reading.end_s = end_s
        return FrameWindow(start_s, end_s, shown), None
    raise ValueError(kind)


def _thumbnail(request: Request, settings: Settings, reading: Reading, values: Sequence[object]) -> Thumbnail:
    if isinstance(request, ThumbnailInput):
        reading.thumbnails += 1
        if reading.thumbnails > len(request.moments_s):
            raise ValueError(f"more than {len(request.moments_s)} thumbnails")
        return thumbnail_from_values(values, request.max_bytes // len(request.moments_s))
    if not isinstance(settings, ReadSettings):
        raise ValueError("a thumbnail that nobody asked for")
    return thumbnail_from_values(values, max(settings.thumbnail_bytes, settings.frame_thumbnail_bytes))


def next_index(reading: Reading, value: object) -> int:
    """Raises:
    ValueError: not behind the frames that came before it.
    """
    index = whole_number(value)
    if reading.indices and index <= reading.indices[-1]:
        raise ValueError(f"frame {index} behind {reading.indices[-1]}")
    reading.indices.append(index)
    return index


def shown_indices(reading: Reading, values: Sequence[object], settings: ReadSettings) -> tuple[int, ...]:
    """Raises:
    ValueError: not T frames that have come, in order.
    """
    shown = tuple(map(whole_number, values))
    moments = settings.time.frames if settings.time else 1
    if len(shown) != moments or list(shown) != sorted(shown) or not set(reading.indices).issuperset(shown):
        raise ValueError(f"a window of the frames {shown}")
    reading.indices = [index for index in reading.indices if index >= shown[0]]
    return shown
