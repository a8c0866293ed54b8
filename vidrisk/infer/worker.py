"""A decode worker, the other end of ``pool``: reads one input after another into shared memory.

A process of its own, so that a decoder that crashes, hangs or takes all memory takes one input with it. It ends when the
run that started it ends, however that ends.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vidrisk.frames import Damage, Frame, FrameWindow, read_frames
from vidrisk.frames.media import name_of
from vidrisk.infer.sources import stamp_of
from vidrisk.infer.static import without_static
from vidrisk.infer.wire import KnownFrame, Line, ReadSettings, Slots, WindowsKept
from vidrisk.runtimes.errors import UnreadableError

if TYPE_CHECKING:
    from vidrisk.cache import ArrayCache

_log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class InputEnd:
    """What became of an input, and under which key its windows were kept. ``is_starved``: it wants more memory than it may have."""

    state: str
    reason: str
    decode_s: float
    key: str = ""
    is_starved: bool = False


def read_input(path: str, settings: ReadSettings,
               cache: ArrayCache | None) -> Iterator[Frame | KnownFrame | FrameWindow | InputEnd]:
    """Frames and windows of one input, then its end. Never raises: what goes wrong becomes the state and its reason.

    An input that fails after its first windows is ``partial``: what could be read counts.
    """
    decode_s, key = 0.0, ""
    damage: Damage | None = None
    last: FrameWindow | None = None
    state, reason, is_starved = "ok", "", False
    started_s = time.perf_counter()
    try:
        _refuse_folder(path)
        for item in _items(path, settings, cache):
            if isinstance(item, WindowsKept):
                key = item.key
                continue
            if isinstance(item, FrameWindow):
                last = item
                damage = item.damage if damage is None else damage.with_later(item.damage or Damage())
            decode_s += time.perf_counter() - started_s
            yield item
            started_s = time.perf_counter()
        if damage:
            state, reason = "partial", str(damage)
    except UnreadableError as error:
        state, reason = error.state, str(error).removeprefix(f"{name_of(path)} ")
        is_starved = isinstance(error.__cause__, MemoryError)
    except OSError as error:
        state, reason = "skipped", error.strerror or repr(error)
    except MemoryError:
        state, reason, is_starved = "too_large", "it does not fit into memory", True
    except Exception as error:  # one file's decoder must not end the run
        _log.debug("reading %r crashed", path, exc_info=True)
        state, reason = "crashed", " ".join(f"{type(error).__name__}: {error}".split())
    if last and state not in ("ok", "partial"):
        state, reason = "partial", f"{reason}; read up to {last.end_s or 0:.2f} s"
    yield InputEnd(state, reason, decode_s + time.perf_counter() - started_s, key, is_starved)


def _items(path: str, settings: ReadSettings, cache: ArrayCache | None) -> Iterable[Frame | KnownFrame | FrameWindow | WindowsKept]:
    items: Iterable[Frame | FrameWindow] = read_frames(path, settings.pixel, settings.time, decoder=settings.decoder,
                                                       choice=settings.choice)
    if settings.static_levels:
        items = without_static(items, settings.static_levels)
    if cache is None:
        return items
    from vidrisk.infer.feature_cache import through_cache  # here: it brings what other workers have no use for

    return through_cache(cache, path, settings, items)


def _refuse_folder(path: str) -> None:
    """A folder among the inputs is one that could not be listed: say why."""
    if Path(path).is_dir():
        with os.scandir(path):
            raise UnreadableError("a folder that could not be listed before", state="skipped")


class _Worker:
    """Reads one input after another; waits where it is ``settings.slots`` frames ahead."""

    def __init__(self, line: Line, memory: int, settings: ReadSettings) -> None:
        self._line, self._settings = line, settings
        self._slots = Slots(memory, settings.slots, settings.pixel.frame_shape)
        self._free = settings.slots
        self._paths: deque[str] = deque()
        self._cache: ArrayCache | None = None
        if settings.cache_salt:
            from vidrisk.cache import array_cache  # here: it brings what other workers have no use for

            self._cache = array_cache()

    def work(self) -> None:
        self._line.send({"ready": True})
        while True:
            while not self._paths:
                self._receive()
            path = self._paths.popleft()
            self._line.send({"begin": _stamp_of(path)})
            for item in read_input(path, self._settings, self._cache):
                if self._line.has_something():
                    self._receive()
                self._hand_over(item)

    def _hand_over(self, item: Frame | KnownFrame | FrameWindow | InputEnd) -> None:
        if isinstance(item, Frame):
            self._next_slot()[:] = item.pixels
            self._line.send({"frame": [item.index, item.time_s]})
        elif isinstance(item, KnownFrame):
            self._next_slot().reshape(-1)[:item.features.nbytes] = item.features.view(np.uint8)
            self._line.send({"features": [item.index, item.time_s, len(item.features)]})
        elif isinstance(item, FrameWindow):
            self._line.send({"window": [item.start_s, item.end_s, item.indices]})
        elif item.is_starved:
            self._line.send({"starved": True})
            raise EOFError  # what a decoder has taken and lost is given back by ending
        else:
            self._line.send({"end": [item.state, item.reason, item.decode_s, item.key]})

    def _next_slot(self) -> npt.NDArray[np.uint8]:
        while not self._free:
            self._receive()
        self._free -= 1
        return self._slots.next()

    def _receive(self) -> None:
        for message in map(json.loads, self._line.receive()):
            if "read" in message:
                self._paths.append(message["read"])
            elif "give back" in message:
                self._line.send({"given back": len(self._paths)})
                self._paths.clear()
            else:
                self._free += message["free"]


def _stamp_of(path: str) -> tuple[int, int] | None:
    try:
        return stamp_of(Path(path).stat())
    except OSError:
        return None


def main(end: str, memory: str, settings_json: str) -> None:
    """Work until the run ends.

    Args:
        end, memory: inherited descriptors, of a socket and of the slots.
    """
    end_with_parent()
    line, settings = Line(socket.socket(fileno=int(end))), ReadSettings.from_json(settings_json)
    limit_memory(settings.max_memory_mb)
    with suppress(EOFError, BrokenPipeError, ConnectionError):  # the run has ended
        _Worker(line, int(memory), settings).work()
    os._exit(0)  # no decoder's clean-up may hang or crash now


def end_with_parent() -> None:
    """Even a worker that hangs inside a decoder ends with the run: Linux kills it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def limit_memory(megabytes: int) -> None:
    """Allocations beyond the limit fail, which decoders report, instead of taking the machine's memory."""
    if sys.platform == "linux":
        import resource

        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        used = int(fields["VmData"].split()[0]) * 1024
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        limit = used + (megabytes << 20)
        resource.setrlimit(resource.RLIMIT_DATA, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
