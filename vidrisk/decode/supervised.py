"""One decode worker, as the pool's owner sees it: what it was given, what it says, checked, and whether it is alive."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from vidrisk.decode.child import Child
from vidrisk.decode.messages import CutInput, Input, InputEnd, Item, ReadSettings, Request, ThumbnailInput
from vidrisk.decode.reading import Memory, Reading, item_from_message
from vidrisk.decode.session import CacheFolder, Session, Slot
from vidrisk.decode.wire import Slots, memory_file, shared_memory, whole_number
from vidrisk.files.paths import stored_from_path

# What may be read of a file before reading counts as hanging: to hash it (twice), to find its frames, to decode them,
# and to seek.
READS_OF_A_FILE, READ_BYTES = 9, 64 << 20


@dataclass(eq=False)
class Task:
    """A request that a worker has. ``is_last_try``: it has cost a worker before."""

    session: Session
    request: Request
    is_last_try: bool = False


class Worker:
    """A decode process. Requests that it is given are read in their order.

    Attributes:
        cache: that it may write; None without.
        tasks: given and not ended.
        reading: of the first of them; None before it has been begun.
        is_asked_back: whether it was asked to give back those that are not begun, and has not answered.
        is_deaf: whether it has not read what it was sent, so that nothing more can be sent.
        ready: whether it has started.
        is_fresh: whether it has read nothing yet.
        heard_s: when it gave a sign of life.
        dropping: sessions that it was told to drop, and since when.
    """

    def __init__(self, cache: CacheFolder | None) -> None:
        self.cache = cache
        self.tasks: deque[Task] = deque()
        self.reading: Reading | None = None
        self.is_asked_back = self.is_deaf = self.ready = False
        self.is_fresh = True
        self.dropping: dict[int, float] = {}
        self._memories: dict[int, Memory | None] = {}
        self._sending = threading.Lock()
        self._child = Child("vidrisk.decode.worker", [cache.path, str(cache.max_bytes)] if cache else ["", "0"])
        self._line = self._child.line
        self.heard_s = time.monotonic()
        self._read_bytes = self._read_limit = 0

    def fileno(self) -> int:
        return self._line.fileno()

    @property
    def is_idle(self) -> bool:
        return self.ready and not self.tasks

    def is_blocked_for(self, session: Session) -> bool:
        """Whether a request of the session would wait for a caller that takes nothing, or for an input that nobody wants."""
        if not self.tasks:
            return False
        first = self.tasks[0].session
        return first.is_closed or (first is not session and self.is_stalled)

    def is_unwanted_for(self, limit_s: float) -> bool:
        """Whether it has gone on for so long with an input that it was told to drop."""
        since_s = self.dropping.get(self.tasks[0].session.number) if self.tasks else None
        return since_s is not None and time.monotonic() - since_s > limit_s

    def give(self, task: Task) -> None:
        if not self.tasks:
            self.heard_s = time.monotonic()
        self.tasks.append(task)
        self.is_fresh = False
        session, request = task.session, task.request
        if session.number not in self._memories:
            self._open(session)
        path = stored_from_path(request.path)
        if isinstance(request, Input):
            self.send({"read": [session.number, path, request.interval and request.interval.to_json()]})
        elif isinstance(request, ThumbnailInput):
            self.send({"thumbnails": [session.number, path, request.moments_s, request.max_bytes]})
        elif isinstance(request, CutInput):
            self.send({"cuts": [session.number, path, request.boxes]})
        elif request.content is None:
            self.send({"photo": [session.number, path, False]})
        else:
            descriptor = memory_file(request.content)
            try:
                self.send({"photo": [session.number, "", True]}, [descriptor])
            finally:
                os.close(descriptor)

    def _open(self, session: Session) -> None:
        opening = {"open": [session.number, session.settings.to_json()]}
        settings = session.settings
        if not isinstance(settings, ReadSettings):
            self._memories[session.number] = None
            self.send(opening)
            return
        descriptor = shared_memory(settings.slots, settings.pixel.frame_shape)
        try:
            slots = Slots(descriptor, settings.slots, settings.pixel.frame_shape)
            self._memories[session.number] = Memory(
                session.number, slots, settings.slots, max(1, settings.slots // 4), self._tell_free
            )
            self.send(opening, [descriptor])
        finally:
            os.close(descriptor)

    def _tell_free(self, message: dict[str, Any]) -> None:
        self.heard_s = time.monotonic()  # it may have waited for this
        self.send(message)

    def ask_back(self) -> None:
        """Ask for the requests that it has not begun."""
        self.is_asked_back = True
        self.send({"give back": True})

    def drop(self, session: Session) -> None:
        """Tell it that nobody wants the inputs of a session any more."""
        if session.number in self._memories:
            self.dropping[session.number] = time.monotonic()
            self.send({"drop": session.number})

    def receive(self) -> list[bytes]:
        """Lines that it has sent, perhaps none.

        Raises:
            EOFError: the process has ended.
            ValueError: what it sends is no line.
        """
        lines = self._line.receive()
        if lines:
            self.heard_s = time.monotonic()
        return lines

    def items_from(self, line: bytes) -> Iterator[tuple[Task, Item, Slot | None]]:
        """What a line says of its inputs, checked; most lines say one thing.

        Raises:
            ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError: no worker of ours says this.
            Starved: the worker is about to end.
        """
        ((kind, value),) = json.loads(line).items()
        if kind == "ready":
            self.ready = True
        elif kind == "begin":
            if not self.tasks:
                raise ValueError("it begins what it was not given")
            size, mtime_ns = (None, None) if value is None else map(whole_number, value)
            self._begin(size, mtime_ns)
        elif kind == "dropped":
            del self.dropping[value], self._memories[value]
            if self.reading and self.tasks[0].session.number == value:
                self.reading = None
            self.tasks = deque(task for task in self.tasks if task.session.number != value)
        elif kind != "given back":
            if self.reading is None:
                raise ValueError(f"{kind} of no input")
            task = self.tasks[0]
            memory = self._memories[task.session.number]
            said = item_from_message(task.request, task.session.settings, memory, self.reading, kind, value)
            if said:
                if isinstance(said[0], InputEnd):
                    self.tasks.popleft()
                    self.reading = None
                yield task, *said

    def given_back(self, line: bytes) -> list[Task] | None:
        """The tasks that a line gives back, in their order; None where it says something else.

        Raises:
            ValueError, TypeError, AttributeError, RecursionError: no worker of ours says this.
        """
        if not line.startswith(b'{"given back"'):
            return None
        ((_, value),) = json.loads(line).items()
        if not self.is_asked_back:
            raise ValueError("it gives back what it was not asked for")
        self.is_asked_back = False
        count = whole_number(value, len(self.tasks) - (self.reading is not None))
        return [self.tasks.pop() for _ in range(count)][::-1]

    def _begin(self, size: int | None, mtime_ns: int | None) -> None:
        self.reading = self.reading.again(size, mtime_ns) if self.reading else Reading(size, mtime_ns)
        self._child.read_errors()
        self._read_bytes = self._child.bytes_read()
        self._read_limit = self._read_bytes + READS_OF_A_FILE * (size or 0) + READ_BYTES

    def end_of(self, reading: Reading, state: str, reason: str) -> InputEnd:
        """The end of the input that it was reading when it was lost: what could be read counts."""
        if reading.end_s is not None:
            state, reason = "partial", f"{reason}; read up to {reading.end_s:.2f} s"
        return InputEnd(state, reason, bytes=reading.size, mtime_ns=reading.mtime_ns)

    def is_silent(self) -> str:
        """Why the input that it reads is to be given up; empty while it need not be.

        It may neither say anything that waits to be heard, nor read on in the file, nor wait for room. (To find the
        frames of a large file takes longer than to decode one.)
        """
        if not self.tasks:
            return ""
        limits, now_s = self.tasks[0].session.limits, time.monotonic()
        if limits.input_s and self.reading and now_s - self.reading.began_s > limits.input_s:
            return f"decoder timed out after {limits.input_s:g} s"
        if self.is_stalled or now_s - self.heard_s <= limits.silence_s or self._line.has_something():
            return ""
        known, self._read_bytes = self._read_bytes, self._child.bytes_read()
        if known < self._read_bytes < self._read_limit:
            self.heard_s = now_s
            return ""
        return f"decoder timed out after {limits.silence_s:g} s without progress"

    @property
    def is_stalled(self) -> bool:
        """Whether it waits for its caller to take what it has read."""
        if not self.tasks:
            return False
        memory = self._memories.get(self.tasks[0].session.number)
        if memory is None or not memory.is_full:
            return False
        self.heard_s = time.monotonic()
        return True

    def end(self, *, has_hung_up: bool = False) -> tuple[str, str]:
        """See ``Child.end``."""
        with self._sending:  # no longer: a caller that tells of free slots does not wait for a process to end
            self._line.close()
        return self._child.end(has_hung_up=has_hung_up)

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send without waiting. What waits for a worker fits into its socket: one that lets it be full reads nothing."""
        with self._sending, suppress(OSError):  # it has ended, which the next ``receive`` tells
            try:
                self._line.send(message, descriptors)
            except BlockingIOError:
                self.is_deaf = True
                self._line.hang_up()  # which wakes the owner
