"""A decode worker, the other end of ``pool``: reads one input after another, of any calls, into their shared memory.

A process of its own, so that a decoder that crashes, hangs or takes all memory takes one input with it, and confined
(``sandbox``), so that one that is taken over takes nothing else. It ends when the process that started it ends, however
that ends.
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
from vidrisk.decode.wire import Line, Slots, path_of_descriptor
from vidrisk.files.cache import ArrayCache
from vidrisk.files.stamps import stamp_of_file
from vidrisk.frames import Frame, FrameWindow
from vidrisk.frames.interval import interval_from_json

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class _Dropped(Exception):
    """Nobody wants the input any more that is being read."""


@dataclass(eq=False)
class _Session:
    """A call whose inputs are read here.

    Attributes:
        slots: for its frames; None where only pictures are wanted.
        free: slots that may be written.
    """

    settings: Settings
    slots: Slots | None
    free: int


class _Worker:
    """Reads one input after another; waits where it is a session's slots ahead."""

    def __init__(self, line: Line, cache: ArrayCache | None, limit_memory: Callable[[int], None]) -> None:
        self._line, self._cache, self._limit_memory = line, cache, limit_memory
        self._sessions: dict[int, _Session] = {}
        self._inputs: deque[tuple[int, Request]] = deque()
        self._reading: int | None = None  # the session of the input that is being read
        self._is_dropped = False
        self._contents: dict[str, int] = {}  # path → descriptor of a photo that lies in no file

    def work(self, sandbox: Sandbox) -> None:
        self._line.send({"ready": True})
        while True:
            while not self._inputs:
                self._receive()
            known = {request.path: _identity_of(request.path) for _, request in self._inputs}
            sandbox.read_alone([path for path in known if path not in self._contents], partial(self._read, known))

    @property
    def writable(self) -> list[Path]:
        """The folders that it may write."""
        return [self._cache.folder] if self._cache and self._cache.made() else []

    def _read(self, known: dict[str, tuple[int, int] | None]) -> None:
        """Read inputs as long as the next one is among those that may be opened, and still the same file: what may be opened is a
        file, not its path. The first one is read whatever it is.
        """
        is_open = True
        while self._inputs and is_open:
            self._reading, request = self._inputs.popleft()
            try:
                if not self._read_one(self._sessions[self._reading], request, known):
                    self._inputs.appendleft(
                        (self._reading, request)
                    )  # another file took its place before it was opened
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
        """Read an input; False where it may not be opened because it is no longer the file that was let in."""
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
            self._next_slot(session)[:] = item.pixels
            self._line.send({"frame": [item.index, item.time_s]})
        elif isinstance(item, KnownFrame):
            self._next_slot(session).reshape(-1)[: item.features.nbytes] = item.features.view(np.uint8)
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
                raise EOFError  # what a decoder has taken and lost is given back by ending
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
                    self._is_dropped = True  # said when its decoder has come to rest
                else:
                    self._forget(value)

    def _open(self, session: int, settings_json: str) -> None:
        settings = settings_from_json(settings_json)
        slots, free = None, 0
        if isinstance(settings, ReadSettings):
            memory, free = self._line.descriptors.popleft(), settings.slots
            slots = Slots(memory, settings.slots, settings.pixel.frame_shape)
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
    """Device and inode; None where there is no file."""
    try:
        info = Path(path).stat()
    except (OSError, ValueError):  # the latter for what can be no path
        return None
    return info.st_dev, info.st_ino


def main(end: str, cache_folder: str, cache_bytes: str) -> None:
    """Work until the process that started this one ends.

    Args:
        end: inherited descriptor of a socket.
        cache_folder, cache_bytes: of the feature cache; empty without one.
    """
    end_with_parent()
    line = Line(socket.socket(fileno=int(end)), takes_descriptors=True)
    cache = ArrayCache(Path(cache_folder), int(cache_bytes)) if cache_folder else None
    with suppress(EOFError, BrokenPipeError, ConnectionError):  # the process that started it has ended
        worker = _Worker(line, cache, memory_limiter())
        worker.work(confine_process(worker.writable))
    os._exit(0)  # no decoder's clean-up may hang or crash now


def end_with_parent() -> None:
    """Even a worker that hangs inside a decoder ends with the thread that started it: Linux kills it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def memory_limiter() -> Callable[[int], None]:
    """A function that lets this process allocate so many megabytes beyond what it has now. Allocations beyond them fail, which
    decoders report, instead of taking the machine's memory.
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
