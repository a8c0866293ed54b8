"""Decode workers under supervision: whatever one file does to its decoder, the run goes on.

A worker that crashes, wants too much memory, or gives no sign of life for ``file_timeout_s`` with a file in its hands, is
killed and replaced. Its file is read once more when all others are done, by a fresh worker with the machine to itself; what
had come of it before does not count. If that fails too, the file ends as ``crashed``, ``too_large`` or ``timeout``, or as
``partial`` with what could be read.
"""

from __future__ import annotations

import json
import logging
import selectors
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import cast

from typing_extensions import Self

from vidrisk.infer.decode import Read, ReadAgain, ReadEnd, ReadFeatures, ReadFrame, ReadWindow, Worker
from vidrisk.infer.ledger import FINAL_STATES, Row
from vidrisk.infer.summary import Meter
from vidrisk.infer.wire import MAX_REASON, ReadSettings, features_from_slot, finite_number, whole_number
from vidrisk.runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)

POLL_S = 0.5
START_TIMEOUT_S = 60.0
FAILED_STARTS = 3
AHEAD = 2  # the input that a worker reads and the next one: it need not wait to be told


class DecodePool:
    """Reads inputs in several processes. Use it as a context manager: leaving it kills them. On Linux they also end with the
    thread that reads.
    """

    def __init__(self, settings: ReadSettings, meter: Meter, *, workers: int, file_timeout_s: float) -> None:
        self._settings, self._meter, self._count, self._timeout_s = settings, meter, workers, file_timeout_s
        self._workers: list[Worker] = []
        self._returned: deque[Row] = deque()
        self._failed: deque[Row] = deque()
        self._failed_starts = 0
        self._is_last_try = False
        self._selector = selectors.DefaultSelector()

    def read(self, rows: Iterable[Row]) -> Generator[Read, None, None]:
        """What the workers read, as it comes: in order within an input, mixed between inputs.

        Raises:
            RuntimeFailure: workers cannot be started.
        """
        yield from self._read(iter(rows), self._count)
        self._is_last_try = True
        while self._failed:
            yield from self._read(iter((self._failed.popleft(),)), 1)

    def _read(self, rows: Iterator[Row], workers: int) -> Iterator[Read]:
        self._hand_out(rows, workers)
        while any(worker.rows for worker in self._workers):
            yield from self._heard()
            for worker in list(self._workers):
                limit_s = self._timeout_s if worker.ready else max(self._timeout_s, START_TIMEOUT_S)
                if worker.is_silent_for(limit_s):
                    yield from self._lost(worker, "timeout", f"nothing was heard of it for {limit_s:g} s")
            self._hand_out(rows, workers)
        self.close()

    def _hand_out(self, rows: Iterator[Row], workers: int) -> None:
        """Give inputs to whoever has the fewest; start workers while there are inputs for them."""
        while True:
            least = min(self._workers, key=lambda worker: len(worker.rows), default=None)
            is_new = len(self._workers) < workers and (least is None or least.rows)
            if not is_new and (least is None or len(least.rows) >= AHEAD):
                return
            row = self._returned.popleft() if self._returned else next(rows, None)
            if row is None:
                break
            (self._started() if is_new else cast(Worker, least)).give(row)
        most = max(self._workers, key=lambda worker: len(worker.rows), default=None)
        if most and len(most.rows) == AHEAD and not all(worker.rows for worker in self._workers) and not most.is_asked_back:
            most.ask_back()  # an hour of video may lie before what an idle worker could read now

    def _started(self) -> Worker:
        try:
            worker = Worker(self._settings)
        except OSError as error:
            raise RuntimeFailure(f"a decode worker cannot be started: {error.strerror}", fix="fewer --workers") from error
        self._workers.append(worker)
        self._selector.register(worker, selectors.EVENT_READ)
        return worker

    def _heard(self) -> Iterator[Read]:
        """What workers say now; waits a little if none does."""
        with self._meter.measure("waiting for decode"):
            speaking = [cast(Worker, key.fileobj) for key, _ in self._selector.select(POLL_S)]
        for worker in speaking:
            try:
                lines = worker.receive()
                for waiting, line in zip(range(len(lines))[::-1], lines, strict=True):
                    self._meter.decoded = waiting
                    yield from self._read_from(worker, line)
            except EOFError:
                yield from self._lost(worker, "crashed")
            except _Starved:
                yield from self._lost(worker, "too_large", f"it needs more than {self._settings.max_memory_mb} MB to be decoded")
            except (ValueError, TypeError, IndexError, AttributeError, RecursionError):
                log.debug("a decode worker talks nonsense", exc_info=True)
                yield from self._lost(worker, "crashed", "its decoder went astray")

    def _read_from(self, worker: Worker, line: bytes) -> Iterator[Read]:
        """One message, checked.

        Raises:
            ValueError, TypeError, IndexError, AttributeError, RecursionError: no worker of ours says this.
            EOFError, _Starved: the worker has ended.
        """
        ((kind, value),) = json.loads(line).items()
        if kind == "ready":
            worker.ready = True
        elif kind == "given back":
            worker.is_asked_back = False
            for _ in range(whole_number(value, len(worker.rows) - worker.is_reading)):
                self._returned.appendleft(worker.rows.pop())
        elif kind == "begin":
            size, mtime_ns = (None, None) if value is None else map(whole_number, value)
            worker.rows[0] = replace(worker.rows[0], bytes=size, mtime_ns=mtime_ns)
            worker.begin(size or 0)
        elif not worker.is_reading:
            raise ValueError(f"{kind} of no input")
        elif kind == "frame":
            index, time_s = worker.next_index(value[0]), finite_number(value[1])
            yield ReadFrame(worker.rows[0].id, index, time_s, worker.next_slot())
            worker.free()
        elif kind == "features":
            index, time_s = worker.next_index(value[0]), finite_number(value[1])
            features = features_from_slot(worker.next_slot(), value[2], self._settings)
            worker.free()
            yield ReadFeatures(worker.rows[0].id, index, time_s, features)
        elif kind == "window":
            start_s, end_s = (None if moment is None else finite_number(moment) for moment in value[:2])
            shown = worker.shown_indices(value[2], self._settings)
            worker.end_s = end_s
            yield ReadWindow(worker.rows[0].id, start_s, end_s, shown)
        elif kind == "end":
            state, reason, decode_s, key = value
            if state not in FINAL_STATES:
                raise ValueError(f"state {state!r}")
            worker.is_reading, self._failed_starts = False, 0
            row = replace(worker.rows.popleft(), state=state, reason=str(reason)[:MAX_REASON])
            yield ReadEnd(row, finite_number(decode_s), str(key)[:MAX_REASON])
        elif kind == "starved":
            raise _Starved
        else:
            raise ValueError(kind)

    def _lost(self, worker: Worker, state: str, reason: str = "") -> Iterator[Read]:
        """A worker has ended (then there is no reason yet) or has to. Only the file in its hands is to blame."""
        self._workers.remove(worker)
        self._selector.unregister(worker)
        ending, last_words = worker.end(has_hung_up=not reason)
        row = worker.rows.popleft() if worker.is_reading else None
        self._returned.extend(worker.rows)
        if row is None:
            self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS:
                raise RuntimeFailure(f"decode workers do not start ({ending}): {last_words}", fix="vidrisk doctor")
            return
        reason = reason or f"its decoder crashed ({ending})"
        log.info("%r: %s: %s", row.path, reason, last_words)
        if not self._is_last_try:
            self._failed.append(replace(row, bytes=None, mtime_ns=None))
            yield ReadAgain(row.id)
        elif worker.end_s is None:
            yield ReadEnd(replace(row, state=state, reason=reason), 0.0)
        else:
            yield ReadEnd(replace(row, state="partial", reason=f"{reason}; read up to {worker.end_s:.2f} s"), 0.0)

    def close(self) -> None:
        """Kill the workers. Safe to call twice."""
        while self._workers:
            worker = self._workers.pop()
            self._selector.unregister(worker)
            worker.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
        self._selector.close()


class _Starved(Exception):
    """The decoder of an input wants more memory than it may have."""
