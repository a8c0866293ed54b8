"""Decode worker: the process that reads inputs one after another, for any call, into that call's shared memory.

It is a separate process, so that a decoder that crashes, hangs or exhausts memory costs only one input, and confined
(``sandbox``), so that a decoder taken over by a file can reach nothing else. It ends when the process that started it
ends, however that ends.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidrisk.decode.cuts import Cut
from vidrisk.decode.jpegs import PIECE_BYTES, Jpeg
from vidrisk.decode.messages import (
    CutInput,
    CutSettings,
    Input,
    InputEnd,
    Item,
    KnownFrame,
    PhotoInput,
    PhotoSettings,
    ReadSettings,
    Request,
    Settings,
    ThumbnailInput,
    settings_from_json,
)
from vidrisk.decode.read_input import read_cuts, read_input, read_jpeg, read_photo_frame, read_thumbnails
from vidrisk.decode.sandbox import Sandbox, confine_process
from vidrisk.decode.thumbnails import Thumbnail
from vidrisk.decode.wire import Line, Slots, frame_from_slot, path_of_descriptor
from vidrisk.files.cache import ArrayCache
from vidrisk.files.stamps import stamp_of_file
from vidrisk.frames import Frame, FrameWindow
from vidrisk.frames.interval import interval_from_json

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class _Dropped(Exception):
    """The input being read has been cancelled."""


@dataclass(eq=False)
class _Session:
    """A call whose inputs this worker reads.

    Attributes:
        slots: shared memory for its frames; None for calls that only return pictures.
        free: number of slots that may be written.
    """

    settings: Settings
    slots: Slots | None
    free: int


class _Worker:
    """Reads one input after another; blocks while all slots of the session are full."""

    def __init__(self, line: Line, cache: ArrayCache | None, limit_memory: Callable[[int], None]) -> None:
        self._line, self._cache, self._limit_memory = line, cache, limit_memory
        self._sessions: dict[int, _Session] = {}
        self._inputs: deque[tuple[int, Request]] = deque()
        self._reading: int | None = None  # the session of the input that is being read
        self._is_dropped = False
        self._contents: dict[str, int] = {}  # path → descriptor of a photo passed as bytes

    def work(self, sandbox: Sandbox) -> None:
        self._line.send({"ready": True})
        while True:
            while not self._inputs:
                self._receive()
            known = {request.path: _identity_of(request.path) for _, request in self._inputs}
            sandbox.read_alone([path for path in known if path not in self._contents], partial(self._read, known))

    @property
    def writable(self) -> list[Path]:
        """Folders that the worker may write."""
        return [self._cache.folder] if self._cache and self._cache.ensure_folder() else []

    def _read(self, known: dict[str, tuple[int, int] | None]) -> None:
        """Read inputs while the next one may be opened and is still the same file.

        Access is granted to a file, not to its path. The first input is read in any case.
        """
        is_open = True
        while self._inputs and is_open:
            self._reading, request = self._inputs.popleft()
            try:
                if not self._read_one(self._sessions[self._reading], request, known):
                    self._inputs.appendleft((self._reading, request))  # replaced by another file before it was opened
                    return
                self._close_content(request)
            except _Dropped:
                self._close_content(request)
                self._forget(self._reading)
            finally:
                self._reading, self._is_dropped = None, False
            following = self._inputs[0][1].path if self._inputs else ""
            is_open = following in known and known[following] == _identity_of(following)

    def _read_one(self, session: _Session, request: Request, known: dict[str, tuple[int, int] | None]) -> bool:
        """Read an input; return False if access is denied because the file has been replaced since."""
        self._limit_memory(session.settings.max_memory_mb)
        self._line.send({"begin": stamp_of_file(request.path)})
        for item in self._items(session.settings, request):
            if isinstance(item, InputEnd) and item.is_refused and known.get(request.path) != _identity_of(request.path):
                return False
            if self._line.has_something():
                self._receive()
            if self._is_dropped:
                raise _Dropped
            self._hand_over(session, item)
        return True

    def _items(self, settings: Settings, request: Request) -> Iterator[Item]:
        if isinstance(request, ThumbnailInput):
            return read_thumbnails(
                request.path, request.moments_s, request.max_bytes, lambda: self._line.send({"alive": True})
            )
        if isinstance(request, CutInput):
            assert isinstance(settings, CutSettings)
            return read_cuts(request.path, request.boxes, settings)
        if isinstance(request, PhotoInput):
            if isinstance(settings, PhotoSettings):
                return read_jpeg(request.path, settings)
            assert isinstance(settings, ReadSettings)
            return read_photo_frame(request.path, settings)
        assert isinstance(settings, ReadSettings)
        return read_input(request.path, settings, self._cache if settings.cache_salt else None, request.interval)

    def _hand_over(self, session: _Session, item: Item) -> None:
        if isinstance(item, Frame):
            frame_from_slot(self._next_slot(session), item.pixels.shape)[:] = item.pixels
            self._line.send({"frame": [item.index, item.time_s]})
        elif isinstance(item, KnownFrame):
            self._next_slot(session)[: item.features.nbytes] = item.features.view(np.uint8)
            self._line.send({"features": [item.index, item.time_s, len(item.features)]})
        elif isinstance(item, FrameWindow):
            self._line.send({"window": [item.start_s, item.end_s, item.indices]})
        elif isinstance(item, Thumbnail):
            self._line.send({"thumbnail": [item.webp, item.width, item.height, item.time_s]})
        elif isinstance(item, Jpeg | Cut):
            for start in range(0, len(item.data), PIECE_BYTES):
                self._line.send({"piece": base64.b64encode(item.data[start : start + PIECE_BYTES]).decode("ascii")})
            size = [item.width, item.height]
            self._line.send({"jpeg": size} if isinstance(item, Jpeg) else {"cut": [item.place, *size]})
        elif isinstance(item, InputEnd):
            if item.is_starved:
                self._line.send({"starved": True})
                raise EOFError  # only exiting releases the memory that a decoder has leaked
            self._line.send({"end": [item.state, item.reason, item.decode_s, item.key, item.content]})

    def _next_slot(self, session: _Session) -> npt.NDArray[np.uint8]:
        assert session.slots is not None
        while not session.free:
            self._receive()
            if self._is_dropped:
                raise _Dropped
        session.free -= 1
        return session.slots.next()

    def _receive(self) -> None:
        for message in map(json.loads, self._line.receive()):
            ((kind, value),) = message.items()
            if kind == "read":
                session, path, interval = value
                self._inputs.append((session, Input(0, path, interval_from_json(interval))))
            elif kind == "thumbnails":
                session, path, moments_s, max_bytes = value
                self._inputs.append((session, ThumbnailInput(0, path, tuple(moments_s), max_bytes)))
            elif kind == "cuts":
                session, path, boxes = value
                self._inputs.append((session, CutInput(0, path, tuple(map(tuple, boxes)))))
            elif kind == "photo":
                session, path, has_content = value
                if has_content:
                    descriptor = self._line.descriptors.popleft()
                    path = path_of_descriptor(descriptor)
                    self._contents[path] = descriptor
                self._inputs.append((session, PhotoInput(0, path)))
            elif kind == "free":
                session, count = value
                if session in self._sessions:
                    self._sessions[session].free += count
            elif kind == "open":
                self._open(*value)
            elif kind == "give back":
                self._line.send({"given back": len(self._inputs)})
                for _, request in self._inputs:
                    self._close_content(request)
                self._inputs.clear()
            elif kind == "drop":
                for session, request in self._inputs:
                    if session == value:
                        self._close_content(request)
                self._inputs = deque(waiting for waiting in self._inputs if waiting[0] != value)
                if self._reading == value:
                    self._is_dropped = True  # answered once the decoder returns
                else:
                    self._forget(value)

    def _open(self, session: int, settings_json: str) -> None:
        settings = settings_from_json(settings_json)
        slots, free = None, 0
        if isinstance(settings, ReadSettings):
            memory, free = self._line.descriptors.popleft(), settings.slots
            slots = Slots(memory, settings.slots, settings.slot_bytes)
            os.close(memory)
        self._sessions[session] = _Session(settings, slots, free)

    def _close_content(self, request: Request) -> None:
        descriptor = self._contents.pop(request.path, None)
        if descriptor is not None:
            os.close(descriptor)

    def _forget(self, session: int) -> None:
        self._sessions.pop(session, None)
        self._line.send({"dropped": session})


def _identity_of(path: str) -> tuple[int, int] | None:
    """Return the device and inode of a file, or None if there is no file."""
    try:
        info = Path(path).stat()
    except (OSError, ValueError):  # ValueError: not a valid path
        return None
    return info.st_dev, info.st_ino


def main(end: str, cache_folder: str, cache_bytes: str) -> None:
    """Work until the process that started this one ends.

    Args:
        end: inherited descriptor of a socket.
        cache_folder: folder of the feature cache; empty without a cache.
        cache_bytes: maximum size of the feature cache, in bytes.
    """
    end_with_parent()
    line = Line(socket.socket(fileno=int(end)), takes_descriptors=True)
    cache = ArrayCache(Path(cache_folder), int(cache_bytes)) if cache_folder else None
    with suppress(EOFError, BrokenPipeError, ConnectionError):  # the process that started it has ended
        worker = _Worker(line, cache, memory_limiter())
        worker.work(confine_process(worker.writable))
    os._exit(0)  # skip decoders' clean-up, which could hang or crash


def end_with_parent() -> None:
    """Have Linux kill this worker, even if a decoder hangs, when the thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def memory_limiter() -> Callable[[int], None]:
    """Return a function that limits how many megabytes this process may allocate beyond its current use.

    Allocations beyond the limit fail, which decoders report, instead of exhausting the machine's memory.
    """
    if sys.platform != "linux":
        return lambda megabytes: None
    import resource

    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    used = int(dict(line.split(":", 1) for line in status.splitlines())["VmData"].split()[0]) * 1024
    _, most = resource.getrlimit(resource.RLIMIT_DATA)

    def limit(megabytes: int) -> None:
        wanted = used + (megabytes << 20)
        resource.setrlimit(
            resource.RLIMIT_DATA, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most)
        )

    return limit
