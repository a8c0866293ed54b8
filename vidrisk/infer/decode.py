"""Source → decode: what the decode stage hands on, and one decode worker as the run sees it."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.infer.child import Child
from vidrisk.infer.ledger import Row
from vidrisk.infer.wire import ReadSettings, Slots, shared_memory, whole_number

# What may be read of a file before reading counts as hanging: to hash it, to find its frames, to decode them, and to seek.
READS_OF_A_FILE, READ_BYTES = 8, 64 << 20


@dataclass(frozen=True, eq=False)
class ReadFrame:
    """One frame of an input. ``pixels``, uint8 (H, W, 3), are a view that the next read overwrites: copy them."""

    row_id: int
    index: int
    time_s: float
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class ReadFeatures:
    """One frame of an input whose ``features``, float32 (D,), are known."""

    row_id: int
    index: int
    time_s: float
    features: npt.NDArray[np.float32]


@dataclass(frozen=True)
class ReadWindow:
    """A window of an input whose frames have all come. ``start_s`` and ``end_s`` are None for photos."""

    row_id: int
    start_s: float | None
    end_s: float | None
    indices: tuple[int, ...]


@dataclass(frozen=True)
class ReadAgain:
    """What came of this input does not count: it will be read again from its start."""

    row_id: int


@dataclass(frozen=True)
class ReadEnd:
    """The end of an input: its row in its final state (but for the count of predictions), and the key under which its
    features are to be kept, if they are."""

    row: Row
    decode_s: float
    key: str = ""


Read = ReadFrame | ReadFeatures | ReadWindow | ReadAgain | ReadEnd


class Worker:
    """A decode process. Inputs that it is given are read in their order.

    Attributes:
        rows: given and not ended.
        is_reading: whether the first of them has been begun.
        is_asked_back: whether it was asked to give back the others and has not answered.
        indices: of the frames of the first one that a window may still name.
        end_s: of the last window of the first one; None before there is one.
        ready: whether it has started.
    """

    def __init__(self, settings: ReadSettings) -> None:
        self.rows: deque[Row] = deque()
        self.is_reading = self.is_asked_back = self.ready = False
        self.indices: list[int] = []
        self.end_s: float | None = None
        self._lump = max(1, settings.slots // 4)  # few messages: they must fit into the socket, whoever is slow
        self._used = 0
        memory = shared_memory(settings.slots, settings.pixel.frame_shape)
        try:
            self._slots = Slots(memory, settings.slots, settings.pixel.frame_shape)
            self._child = Child("vidrisk.infer.worker", [str(memory), settings.to_json()], [memory])
        finally:
            os.close(memory)
        self._line = self._child.line
        self._heard_s = time.monotonic()
        self._read_bytes = self._read_limit = 0

    def fileno(self) -> int:
        return self._line.fileno()

    def give(self, row: Row) -> None:
        if not self.rows:
            self._heard_s = time.monotonic()
        self.rows.append(row)
        self._send({"read": row.path})

    def ask_back(self) -> None:
        """Ask for the inputs that it has not begun."""
        self.is_asked_back = True
        self._send({"give back": True})

    def begin(self, size: int) -> None:
        """It has begun the first of its inputs, of so many bytes."""
        self.is_reading, self.indices, self.end_s = True, [], None
        self._read_bytes = self._child.bytes_read()
        self._read_limit = self._read_bytes + READS_OF_A_FILE * size + READ_BYTES

    def receive(self) -> list[bytes]:
        """Lines that it has sent, perhaps none.

        Raises:
            EOFError: the process has ended.
            ValueError: what it sends is no line.
        """
        lines = self._line.receive()
        self._heard_s = time.monotonic()
        return lines

    def next_index(self, value: object) -> int:
        """Raises:
        ValueError: not behind the frames that came before it.
        """
        index = whole_number(value)
        if self.indices and index <= self.indices[-1]:
            raise ValueError(f"frame {index} behind {self.indices[-1]}")
        self.indices.append(index)
        return index

    def shown_indices(self, values: Sequence[object], settings: ReadSettings) -> tuple[int, ...]:
        """Raises:
        ValueError: not T frames that have come, in order.
        """
        shown = tuple(map(whole_number, values))
        moments = settings.time.frames if settings.time else 1
        if len(shown) != moments or list(shown) != sorted(shown) or not set(self.indices).issuperset(shown):
            raise ValueError(f"a window of the frames {shown}")
        self.indices = [index for index in self.indices if index >= shown[0]]
        return shown

    def next_slot(self) -> npt.NDArray[np.uint8]:
        """The slot of the next frame, a view: ``free`` it when it has been copied."""
        return self._slots.next()

    def free(self) -> None:
        self._used += 1
        if self._used == self._lump:
            self._heard_s = time.monotonic()  # it may have waited for this
            self._send({"free": self._used})
            self._used = 0

    def is_silent_for(self, limit_s: float) -> bool:
        """Whether it has an input and has given no sign of life for so long: neither said anything that waits to be heard, nor
        read on in the file. (To find the frames of a large file takes longer than to decode one.)
        """
        if not self.rows or time.monotonic() - self._heard_s <= limit_s or self._line.has_something():
            return False
        known, self._read_bytes = self._read_bytes, self._child.bytes_read()
        if known < self._read_bytes < self._read_limit:
            self._heard_s = time.monotonic()
            return False
        return True

    def end(self, *, has_hung_up: bool = False) -> tuple[str, str]:
        """See ``Child.end``."""
        return self._child.end(has_hung_up=has_hung_up)

    def _send(self, message: dict[str, Any]) -> None:
        with suppress(OSError):  # it has ended, which the next ``receive`` tells
            self._line.send(message)
