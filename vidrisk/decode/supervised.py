"""One decode worker as seen by the pool's owner: its tasks, its validated messages, and whether it is alive."""

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

# How much of a file may be read before reading counts as hanging: for hashing it (twice), indexing its frames, decoding
# them, and seeking.
READS_OF_A_FILE, READ_BYTES = 9, 64 << 20


@dataclass(eq=False)
class Task:
    """A request that a worker has. ``is_last_try``: its first attempt has cost a worker."""

    session: Session
    request: Request
    is_last_try: bool = False


class Worker:
    """A decode process, which reads its requests in order.

    Attributes:
        cache: feature cache that it may write; None without a cache.
        tasks: tasks that it was given and that have not ended.
        reading: state of the first task; None before it has begun.
        is_asked_back: whether it was asked to return the requests that it has not begun, and has not answered.
        is_deaf: whether it has stopped reading its messages, so that nothing more can be sent.
        ready: whether it has started.
        is_fresh: whether it has read nothing yet.
        heard_s: time of its last sign of life.
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
        """Return whether a request of the session would wait for a stalled caller or a cancelled input."""
        if not self.tasks:
            return False
        first = self.tasks[0].session
        return first.is_closed or (first is not session and self.is_stalled)

    def is_unwanted_for(self, limit_s: float) -> bool:
        """Return whether it has continued for longer than ``limit_s`` with an input that it was told to drop."""
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
        descriptor = shared_memory(settings.slots, settings.slot_bytes)
        try:
            slots = Slots(descriptor, settings.slots, settings.slot_bytes)
            self._memories[session.number] = Memory(
                session.number, slots, settings.slots, max(1, settings.slots // 4), self._tell_free
            )
            self.send(opening, [descriptor])
        finally:
            os.close(descriptor)

    def _tell_free(self, message: dict[str, Any]) -> None:
        self.heard_s = time.monotonic()  # it may have been waiting for this
        self.send(message)

    def ask_back(self) -> None:
        """Ask it to return the requests that it has not begun."""
        self.is_asked_back = True
        self.send({"give back": True})

    def drop(self, session: Session) -> None:
        """Tell it that the inputs of a session are cancelled."""
        if session.number in self._memories:
            self.dropping[session.number] = time.monotonic()
            self.send({"drop": session.number})

    def receive(self) -> list[bytes]:
        """Return the lines that it has sent; may be empty.

        Raises:
            EOFError: the process has ended.
            ValueError: a line is too long.
        """
        lines = self._line.receive()
        if lines:
            self.heard_s = time.monotonic()
        return lines

    def items_from(self, line: bytes) -> Iterator[tuple[Task, Item, Slot | None]]:
        """Validate a line about its inputs and yield the items, usually one.

        Raises:
            ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError: the line is not one that a sane
                worker sends.
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

    def take_back_tasks(self, line: bytes) -> list[Task] | None:
        """Remove the tasks that a line returns and return them in order, or None if the line is of another kind.

        Raises:
            ValueError, TypeError, AttributeError, RecursionError: the line is not one that a sane worker sends.
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
        """Return the end of the input that it was reading when it was lost: what could be read counts."""
        if reading.end_s is not None:
            state, reason = "partial", f"{reason}; read up to {reading.end_s:.2f} s"
        return InputEnd(state, reason, bytes=reading.size, mtime_ns=reading.mtime_ns)

    def is_silent(self) -> str:
        """Return the reason to give up on the input being read, or "" if there is none.

        The worker counts as silent if it has no unread message, makes no progress in the file, and does not wait for a
        free slot. (Indexing the frames of a large file takes longer than decoding one.)
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
        with self._sending:  # released at once: a caller that reports free slots must not wait for the process to end
            self._line.close()
        return self._child.end(has_hung_up=has_hung_up)

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send without waiting.

        Everything sent to a worker fits into its socket, so a worker whose socket is full does not read.
        """
        with self._sending, suppress(OSError):  # it has ended, which the next ``receive`` reports
            try:
                self._line.send(message, descriptors)
            except BlockingIOError:
                self.is_deaf = True
                self._line.hang_up()  # which wakes the owner
