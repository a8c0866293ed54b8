"""What passes between a run and its decode workers: lines of JSON over a socket, and pixels in shared memory.

    run → worker     {"read": path}                    one more input, in this order
                     {"free": n}                       n slots of the memory may be written again, oldest first
    worker → run     {"ready": true}                   it has started
                     {"frame": [index, time_s]}        pixels are in the next slot
                     {"features": [index, time_s, D]}  D float32 that were kept are in the next slot
                     {"window": [start_s, end_s, [index, …]]}
                     {"end": [state, reason, bytes, mtime_ns, decode_s, key]}

No pickle: a decoder that a hostile file has taken over can send numbers and text, nothing else. The memory has no name, so
whatever is killed leaves nothing behind.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import tempfile
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.frames import Decoder, FrameChoice
from vidrisk.runtimes.specs import PixelSpec, TimeSpec

RECEIVE_BYTES = 1 << 16


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
    """

    pixel: PixelSpec
    time: TimeSpec | None
    decoder: Decoder = "auto"
    choice: FrameChoice = "all"
    static_levels: float = 0.0
    max_memory_mb: int = 2048
    slots: int = 32
    cache_salt: str = ""

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
        """
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except ConnectionError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines

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
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("vidrisk-frames")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, count * int(np.prod(frame_shape)))
    return descriptor
