"""Decode workers under supervision: whatever one file does to its decoder, the run goes on.

A worker that crashes, or says nothing for ``file_timeout_s`` with a file in its hands, is killed and replaced. Its file is
read once more when all others are done, by a fresh worker with the machine to itself; what it had handed on before does
not count. If that fails too, the file ends as ``crashed`` or ``timeout``, or as ``partial`` with what could be read.
"""

from __future__ import annotations

import json
import logging
import selectors
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
from typing_extensions import Self

from vidrisk.infer.decode import Read, ReadAgain, ReadEnd, ReadFeatures, ReadFrame, ReadWindow, Worker
from vidrisk.infer.ledger import STATES, Row
from vidrisk.infer.summary import StageTimes
from vidrisk.infer.wire import ReadSettings
from vidrisk.runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)

POLL_S = 0.5
START_TIMEOUT_S = 60.0


class DecodePool:
    """Reads inputs in several processes. Use it as a context manager: leaving it kills them."""

    def __init__(self, settings: ReadSettings, stages: StageTimes, *, workers: int, file_timeout_s: float) -> None:
        self._settings, self._stages, self._count, self._timeout_s = settings, stages, workers, file_timeout_s
        # A worker has its next inputs at hand, as many as fill its slots: it never waits to be told what comes next.
        self._ahead = max(2, settings.slots // (settings.time.frames if settings.time else 1))
        self._workers: list[Worker] = []
        self._returned: deque[Row] = deque()
        self._failed: deque[Row] = deque()
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
            for worker in [worker for worker in self._workers if worker.silent_s() > self._limit_s(worker)]:
                yield from self._lost(worker, "timeout", f"nothing was heard of it for {self._timeout_s:g} s")
            self._hand_out(rows, workers)
        self.close()

    def _hand_out(self, rows: Iterator[Row], workers: int) -> None:
        """Give inputs to whoever has the fewest; start workers while there are inputs for them."""
        while True:
            least = min(self._workers, key=lambda worker: len(worker.rows), default=None)
            is_new = len(self._workers) < workers and (least is None or least.rows)
            if not is_new and (least is None or len(least.rows) >= self._ahead):
                return
            row = self._returned.popleft() if self._returned else next(rows, None)
            if row is None:
                return
            (self._started() if is_new else cast(Worker, least)).give(row)

    def _started(self) -> Worker:
        try:
            worker = Worker(self._settings)
        except OSError as error:
            raise RuntimeFailure(f"a decode worker cannot be started: {error.strerror}", fix="fewer --workers") from error
        self._workers.append(worker)
        self._selector.register(worker, selectors.EVENT_READ)
        return worker

    def _limit_s(self, worker: Worker) -> float:
        return self._timeout_s if worker.ready else max(self._timeout_s, START_TIMEOUT_S)

    def _heard(self) -> Iterator[Read]:
        """What workers say now; waits a little if none does."""
        with self._stages.measure("waiting for decode"):
            speaking = [cast(Worker, key.fileobj) for key, _ in self._selector.select(POLL_S)]
        for worker in speaking:
            try:
                lines = worker.receive()
                for waiting, line in zip(range(len(lines))[::-1], lines, strict=True):
                    self._stages.queued = waiting
                    yield from self._read_from(worker, json.loads(line))
            except EOFError:
                yield from self._lost(worker, "crashed")
            except (ValueError, TypeError, KeyError, IndexError):
                log.debug("a decode worker talks nonsense", exc_info=True)
                yield from self._lost(worker, "crashed", "its decoder went astray")

    def _read_from(self, worker: Worker, message: dict[str, Any]) -> Iterator[Read]:
        if "ready" in message:
            worker.ready = True
        elif "frame" in message:
            index, time_s = message["frame"]
            yield ReadFrame(worker.rows[0].id, int(index), float(time_s), worker.next_slot())
            worker.free()
        elif "features" in message:
            index, time_s, width = message["features"]
            features = worker.next_slot().reshape(-1)[:4 * int(width)].view(np.float32).copy()
            worker.free()
            yield ReadFeatures(worker.rows[0].id, int(index), float(time_s), features)
        elif "window" in message:
            start_s, end_s, indices = message["window"]
            worker.windows += 1
            yield ReadWindow(worker.rows[0].id, start_s, end_s, tuple(indices))
        else:
            state, reason, size, mtime_ns, decode_s, key = message["end"]
            if state not in STATES:
                raise ValueError(f"state {state!r}")
            worker.windows = 0
            yield ReadEnd(replace(worker.rows.popleft(), state=state, reason=str(reason), bytes=size, mtime_ns=mtime_ns),
                          float(decode_s), str(key))

    def _lost(self, worker: Worker, state: str, reason: str = "") -> Iterator[Read]:
        """A worker has ended (then there is no reason yet) or has to. Only the file in its hands is to blame."""
        self._workers.remove(worker)
        self._selector.unregister(worker)
        ending = worker.end(has_hung_up=not reason)
        if not worker.ready:
            raise RuntimeFailure(f"a decode worker does not start ({ending}): {worker.last_words}", fix="vidrisk doctor")
        if not worker.rows:
            return
        row = worker.rows.popleft()
        self._returned.extend(worker.rows)
        reason = reason or f"its decoder crashed ({ending})"
        log.info("%r: %s: %s", row.path, reason, worker.last_words)
        if self._is_last_try:
            state = "partial" if worker.windows else state
            yield ReadEnd(replace(_with_file_facts(row), state=state, reason=reason), 0.0)
        else:
            self._failed.append(row)
            yield ReadAgain(row.id)

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


def _with_file_facts(row: Row) -> Row:
    """Size and time of change, by which a continued run sees whether the file has changed."""
    try:
        info = Path(row.path).stat()
    except OSError:
        return row
    return replace(row, bytes=info.st_size, mtime_ns=info.st_mtime_ns)
