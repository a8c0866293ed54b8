"""What passes between a pool and its workers: lines of JSON over a socket, and pixels in shared memory.

    pool → worker    {"open": [session, settings]}     a call: how its inputs are read; a descriptor of its slots comes
                     along {"read": [session, path, interval]}   one more input, in this order; the path as
                                                       ``paths.stored_from_path`` makes it, the interval null for a
                                                       whole file
                     {"thumbnails": [session, path, [moment_s, …], max_bytes]}
                     {"photo": [session, path, has_content]}   with content, a descriptor of it comes along and the path
                     is empty {"cuts": [session, path, [[left, top, width, height], …]]}
                     {"free": [session, n]}            n of its slots may be written again, oldest first
                     {"give back": true}               inputs that are not begun, to be read by somebody else
                     {"drop": session}                 nobody wants its inputs any more
    worker → pool    {"ready": true}                   it has started
                     {"begin": [bytes, mtime_ns]}      of the next input, before it is opened
                     {"alive": true}                   it gets on
                     {"frame": [index, time_s]}        pixels are in the next slot
                     {"features": [index, time_s, D]}  D float32 that were kept are in the next slot
                     {"window": [start_s, end_s, [index, …]]}
                     {"thumbnail": [webp, width, height, time_s]}
                     {"piece": base64}                 of a JPEG or a PNG, in order
                     {"jpeg": [width, height]}         that the pieces before it make up
                     {"cut": [place, width, height]}   a PNG of the box at that place, that the pieces before it make up
                     {"end": [state, reason, decode_s, key, sha256]}
                     {"starved": true}                 the input needs more memory than it may have; the worker ends
                     {"given back": n}                 the last n inputs
                     {"dropped": session}              it has none of its inputs any more

A file may take over the decoder that reads it. So nothing is pickled, what a worker says is checked, the memory cannot
be shrunk under the pool, and it has no name: whatever is killed leaves nothing behind.
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
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.files.stamps import MAX_INT64

RECEIVE_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 20
MAX_REASON = 1000  # characters
MAX_DESCRIPTORS = 16


class Line:
    """Messages over a stream socket, one JSON value per line.

    Args:
        takes_descriptors: those that come along are kept; else they are refused.

    Attributes:
        descriptors: that have come and nobody has taken yet, in their order.
    """

    def __init__(self, end: socket.socket, *, takes_descriptors: bool = False) -> None:
        self._socket = end
        self._rest = b""
        self._takes_descriptors = takes_descriptors
        self.descriptors: deque[int] = deque()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Raises:
        BlockingIOError: the socket does not block, and is full.
        OSError: nobody is at the other end.
        """
        data = json.dumps(message).encode() + b"\n"
        if descriptors:
            data = data[socket.send_fds(self._socket, [data], descriptors) :]
        self._socket.sendall(data)

    def receive(self) -> list[bytes]:
        """Wait for bytes, if the socket does; the whole lines among them, perhaps none.

        Raises:
            EOFError: nobody is at the other end.
            ValueError: a line that does not end.
        """
        try:
            if self._takes_descriptors:
                data, descriptors, _, _ = socket.recv_fds(self._socket, RECEIVE_BYTES, MAX_DESCRIPTORS)
                self.descriptors.extend(descriptors)
            else:
                data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
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
        poll = select.poll()  # select() knows no descriptor above 1023
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def hang_up(self) -> None:
        """Let both ends hear that nothing will follow."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

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


def memory_file(content: bytes) -> int:
    """Descriptor of a file without a name that holds some bytes. The caller closes it."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("vidrisk-photo", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    return descriptor


def path_of_descriptor(descriptor: int) -> str:
    """Where a process finds a file that it has open."""
    return f"/proc/self/fd/{descriptor}" if sys.platform == "linux" else f"/dev/fd/{descriptor}"


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
    try:
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer beyond float64
        pass
    raise ValueError(f"{value!r} is no finite number")


def features_from_slot(slot: npt.NDArray[np.uint8], width: object, features: int) -> npt.NDArray[np.float32]:
    """Raises:
    ValueError: features of another width than the encoder's.
    """
    if width != features or 4 * features > slot.size or not features:
        raise ValueError(f"features of width {width!r}")
    return slot.reshape(-1)[: 4 * features].view(np.float32).copy()
