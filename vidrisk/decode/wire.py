"""Protocol between a pool and its workers: lines of JSON over a socket, and pixels in shared memory.

    pool → worker    {"open": [session, settings]}     start a call: how its inputs are read; a descriptor of its slots
                                                       comes along
                     {"read": [session, path, interval]}   queue an input; path in the form of
                                                       ``paths.stored_from_path``, interval null for a whole file
                     {"thumbnails": [session, path, [moment_s, …], max_bytes]}
                     {"photo": [session, path, has_content]}   with content, a descriptor of it comes along and the
                                                       path is empty
                     {"cuts": [session, path, [[left, top, width, height], …]]}
                     {"free": [session, n]}            n of its slots may be written again, oldest first
                     {"give back": true}               return the inputs that are not begun, for another worker
                     {"drop": session}                 cancel the session's inputs
    worker → pool    {"ready": true}                   the worker has started
                     {"begin": [bytes, mtime_ns]}      of the next input, before it is opened
                     {"alive": true}                   sign of life
                     {"frame": [index, time_s]}        pixels are in the next slot
                     {"features": [index, time_s, D]}  D cached float32 are in the next slot
                     {"window": [start_s, end_s, [index, …]]}
                     {"thumbnail": [webp, width, height, time_s]}
                     {"piece": base64}                 of a JPEG or a PNG, in order
                     {"jpeg": [width, height]}         the preceding pieces are a JPEG
                     {"cut": [place, width, height]}   the preceding pieces are a PNG of the box at that place
                     {"end": [state, reason, decode_s, key, sha256]}
                     {"starved": true}                 the input needs more memory than it may have; the worker ends
                     {"given back": n}                 the last n inputs are returned
                     {"dropped": session}              the worker has none of the session's inputs any more

A file may take over the decoder that reads it. Therefore nothing is pickled, a worker's messages are validated, and the
shared memory is anonymous and cannot be shrunk by the worker: a killed process leaves nothing behind.
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
        end: this end of the socket.
        takes_descriptors: keep descriptors that come along; otherwise they are refused.

    Attributes:
        descriptors: descriptors that have arrived and have not been taken yet, in order.
    """

    def __init__(self, end: socket.socket, *, takes_descriptors: bool = False) -> None:
        self._socket = end
        self._rest = b""
        self._takes_descriptors = takes_descriptors
        self.descriptors: deque[int] = deque()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a message, with descriptors if there are any.

        Raises:
            BlockingIOError: the socket is non-blocking and full.
            OSError: the other end is closed.
        """
        data = json.dumps(message).encode() + b"\n"
        if descriptors:
            data = data[socket.send_fds(self._socket, [data], descriptors) :]
        self._socket.sendall(data)

    def receive(self) -> list[bytes]:
        """Return the complete lines that have arrived; wait for bytes if the socket is blocking. May be empty.

        Raises:
            EOFError: the other end is closed.
            ValueError: a line is too long.
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
        """Return whether ``receive`` would return without waiting."""
        poll = select.poll()  # select() supports no descriptor above 1023
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def hang_up(self) -> None:
        """Shut down both directions, which both ends notice."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


class Slots:
    """Shared memory for frames, used in rotation: frame n of a worker is in slot n modulo the number of slots."""

    def __init__(self, descriptor: int, count: int, slot_bytes: int) -> None:
        self._memory = mmap.mmap(descriptor, count * slot_bytes)
        self._slots = np.frombuffer(self._memory, np.uint8).reshape(count, slot_bytes)
        self._next = 0

    def next(self) -> npt.NDArray[np.uint8]:
        """Return the bytes of the next slot, a view."""
        slot: npt.NDArray[np.uint8] = self._slots[self._next % len(self._slots)]
        self._next += 1
        return slot


def shared_memory(count: int, slot_bytes: int) -> int:
    """Return a descriptor of memory for ``count`` slots, shared by inheriting it. The caller closes it."""
    size = count * slot_bytes
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
    """Return a descriptor of an anonymous file that holds ``content``. The caller closes it."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("vidrisk-photo", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    return descriptor


def path_of_descriptor(descriptor: int) -> str:
    """Return the path under which a process finds a file that it has open."""
    return f"/proc/self/fd/{descriptor}" if sys.platform == "linux" else f"/dev/fd/{descriptor}"


def whole_number(value: object, most: int = MAX_INT64) -> int:
    """Check that a value is an integer from 0 to ``most``.

    Raises:
        ValueError: it is not.
    """
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{value!r} is no whole number up to {most}")
    return value


def finite_number(value: object) -> float:
    """Check that a value is a finite number, and return it as a float.

    Raises:
        ValueError: it is not.
    """
    try:
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer beyond the range of float64
        pass
    raise ValueError(f"{value!r} is no finite number")


def frame_from_slot(slot: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return the frame ``(H, W, 3)`` that a slot begins with, a view."""
    return slot[: math.prod(shape)].reshape(shape)


def features_from_slot(slot: npt.NDArray[np.uint8], width: object, features: int) -> npt.NDArray[np.float32]:
    """Copy the D float32 features that a slot begins with.

    Raises:
        ValueError: their width differs from the encoder's.
    """
    if width != features or 4 * features > slot.size or not features:
        raise ValueError(f"features of width {width!r}")
    return slot[: 4 * features].view(np.float32).copy()
