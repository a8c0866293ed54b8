"""What passes between a run and its decode workers: lines of JSON over a socket, and pixels in shared memory.

    run → worker     {"read": path}                    one more input, in this order
                     {"free": n}                       n slots of the memory may be written again, oldest first
                     {"give back": true}               inputs that are not begun, to be read by somebody else
    worker → run     {"ready": true}                   it has started
                     {"begin": [bytes, mtime_ns]}      of the next input, before it is opened
                     {"frame": [index, time_s]}        pixels are in the next slot
                     {"features": [index, time_s, D]}  D float32 that were kept are in the next slot
                     {"window": [start_s, end_s, [index, …]]}
                     {"end": [state, reason, decode_s, key]}
                     {"starved": true}                 the input needs more memory than it may have; the worker ends
                     {"given back": n}                 the last n inputs

A file may take over the decoder that reads it. So nothing is pickled, what a worker says is checked, the memory cannot be
shrunk under the run, and it has no name: whatever is killed leaves nothing behind.
"""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import select
import socket
import sys
import tempfile
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.frames import Decoder, FrameChoice
from vidrisk.infer.sources import MAX_INT64
from vidrisk.runtimes.specs import PixelSpec, TimeSpec

RECEIVE_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 20
MAX_REASON = 1000  # characters


@dataclass(frozen=True)
class ReadSettings:
    """How inputs become frames; what every worker of a run is started with.

    Attributes:
        pixel, time: the specs.
        decoder, choice: see ``frames.read_frames``.
        static_levels: see ``static.without_static``.
        max_memory_mb: what a worker may allocate beyond what it starts with.
        slots: frames that a worker may be ahead.
        cache_salt: stands for the encoder and the specs in the keys of the feature cache; empty without it.
        features: of a frame, D, where there is a cache.
    """

    pixel: PixelSpec
    time: TimeSpec | None
    decoder: Decoder = "auto"
    choice: FrameChoice = "all"
    static_levels: float = 0.0
    max_memory_mb: int = 2048
    slots: int = 32
    cache_salt: str = ""
    features: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ReadSettings:
        values = json.loads(text)
        time = values.pop("time")
        return cls(pixel=PixelSpec(**values.pop("pixel")), time=TimeSpec(**time) if time else None, **values)


@dataclass(frozen=True, eq=False)
class KnownFrame:
    """A frame whose features, float32 (D,), were kept."""

    index: int
    time_s: float
    features: npt.NDArray[np.float32]


@dataclass(frozen=True)
class WindowsKept:
    """The last of the items of an input that was read whole: under which key its windows were kept."""

    key: str


class Line:
    """Messages over a stream socket, one JSON value per line."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._rest = b""

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Raises:
        OSError: nobody is at the other end.
        """
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[bytes]:
        """Wait for bytes; the whole lines among them, perhaps none.

        Raises:
            EOFError: nobody is at the other end.
            ValueError: a line that does not end.
        """
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except ConnectionError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise ValueError(f"a line of more than {MAX_LINE_BYTES} bytes")
        return lines

    def has_something(self) -> bool:
        """Whether ``receive`` would not wait."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def close(self) -> None:
        self._socket.close()


class Slots:
    """Shared memory for frames, used in turn: frame n of a worker is in slot n modulo their number."""

    def __init__(self, descriptor: int, count: int, frame_shape: tuple[int, int, int]) -> None:
        self._memory = mmap.mmap(descriptor, count * int(np.prod(frame_shape)))
        self._frames = np.frombuffer(self._memory, np.uint8).reshape(count, *frame_shape)
        self._next = 0

    def next(self) -> npt.NDArray[np.uint8]:
        """The next slot as ``uint8 (H, W, 3)``: a view."""
        slot: npt.NDArray[np.uint8] = self._frames[self._next % len(self._frames)]
        self._next += 1
        return slot


def shared_memory(count: int, frame_shape: tuple[int, int, int]) -> int:
    """Descriptor of memory for ``count`` frames that processes share by inheriting it. The caller closes it."""
    size = count * int(np.prod(frame_shape))
    if sys.platform == "linux":
        descriptor = os.memfd_create("vidrisk-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return descriptor
    with tempfile.TemporaryFile() as file:
        descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def whole_number(value: object, most: int = MAX_INT64) -> int:
    """Raises:
    ValueError: anything but an integer from 0 to ``most``.
    """
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{value!r} is no whole number up to {most}")
    return value


def finite_number(value: object) -> float:
    """Raises:
    ValueError: anything but a finite number.
    """
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)


def features_from_slot(slot: npt.NDArray[np.uint8], width: object, settings: ReadSettings) -> npt.NDArray[np.float32]:
    """Raises:
    ValueError: features of another width than the encoder's.
    """
    if width != settings.features or 4 * settings.features > slot.size or not settings.features:
        raise ValueError(f"features of width {width!r}")
    return slot.reshape(-1)[:4 * settings.features].view(np.float32).copy()
