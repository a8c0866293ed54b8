"""Owner of the decode workers: one thread that starts, feeds, watches and ends them and receives their messages.

Linux ends a worker with the thread that started it, so this thread lives as long as the pool, whichever threads use the
pool. Only this thread touches sessions and workers. Callers send it commands, and receive answers through the queue of
their session.

A worker that crashes, needs too much memory, or makes no progress on a file, is killed and replaced. Its file is read
once more, by a fresh worker, after all other inputs of its session are done; items from the first attempt are void. If
that fails too, the file ends as ``crashed``, ``too_large`` or ``timeout``, or as ``partial`` with what could be read.

Sessions take turns. A session that waits because the workers are busy with other sessions, or are blocked by callers
that pause, gets an additional worker.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import cast

from vidrisk.decode.messages import Again, InputEnd, Item, Read, Request
from vidrisk.decode.reading import Starved
from vidrisk.decode.session import CacheFolder, Session, Slot
from vidrisk.decode.supervised import Task, Worker
from vidrisk.decode.turns import AHEAD, AHEAD_SHARED, Turns
from vidrisk.runtimes.contract.errors import RuntimeFailure

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
FAILED_STARTS = 3
CHECK_S = 0.25  # interval between checks of silent workers and waiting sessions
IDLE_S = 300.0  # after which an idle pool keeps only one worker
DROP_S = 2.0  # in which a worker must abandon a cancelled input


class Owner:
    """Starts workers when they are needed, and keeps them.

    Args:
        workers: most workers, not counting extra ones for sessions that would otherwise wait for other sessions.
    """

    def __init__(self, workers: int) -> None:
        self._turns = Turns(workers)
        self._failed_starts = 0
        self._commands: deque[Callable[[], None]] = deque()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._is_stopped = False
        self._warm = 0
        self._busy_s = time.monotonic()
        self._cache: CacheFolder | None = None  # of the last call that used one
        self._thread = threading.Thread(target=self._run, name="decode pool", daemon=True)
        self._thread.start()

    # Methods that callers may use, from any thread.

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._is_stopped

    def open(self, session: Session) -> None:
        self._submit(lambda: self._turns.sessions.append(session))

    def add(self, session: Session, request: Request) -> None:
        def act() -> None:
            if not session.pending and not session.in_hand:
                session.waits_since_s = time.monotonic()
            session.pending.append(request)

        self._submit(act)

    def close(self, session: Session) -> None:
        self._submit(lambda: self._close(session))

    def warm_up(self, workers: int) -> None:
        """Start workers before they are needed."""

        def act() -> None:
            self._warm = max(self._warm, workers)

        self._submit(act)

    def stop(self) -> None:
        """End the workers and the thread. Safe to call twice, and from any thread."""

        def act() -> None:
            self._is_stopped = True

        self._submit(act)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _submit(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        with suppress(OSError):  # the thread is awake, or has ended
            self._wake.send(b"\0")

    # Methods of the owner's thread.

    def _run(self) -> None:
        try:
            while not self._is_stopped:
                self._turn()
            self._fail(self._turns.sessions, RuntimeFailure("the decode pool was closed while it was being read"))
        except BaseException as error:
            log.debug("the decode pool failed", exc_info=True)
            self._fail(self._turns.sessions, RuntimeFailure(f"the decode pool failed: {type(error).__name__}: {error}"))
        finally:
            self._is_stopped = True
            for worker in self._turns.workers:
                worker.end()
            self._selector.close()
            self._wake.close()
            self._woken.close()

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._wait_s()):
            if key.fileobj is self._woken:
                self._woken.recv(4096)
            else:
                self._hear(cast(Worker, key.fileobj))
        while self._commands:
            self._commands.popleft()()
        for worker in list(self._turns.workers):
            self._watch(worker)
        self._hand_out()
        if self._grow():
            self._hand_out()  # requests that need not wait for a new worker
        for worker in list(self._turns.find_workers_to_ask_back()):
            worker.ask_back()
        self._shrink()

    def _is_busy(self) -> bool:
        return any(not worker.is_idle for worker in self._turns.workers) or bool(self._turns.waiting())

    def _wait_s(self) -> float | None:
        """Return how long to wait for messages, or None to wait indefinitely."""
        if self._is_busy():
            return CHECK_S
        return max(0.0, self._busy_s + IDLE_S - time.monotonic()) if len(self._turns.workers) > 1 else None

    def _close(self, session: Session) -> None:
        session.is_closed = True
        session.pending.clear()
        session.failed.clear()
        if session in self._turns.sessions:
            self._turns.sessions.remove(session)
        for worker in self._turns.workers:
            worker.drop(session)

    def _fail(self, sessions: Iterable[Session], error: RuntimeFailure) -> None:
        for session in list(sessions):
            session.answers.put(error)
            self._close(session)

    # Receiving.

    def _hear(self, worker: Worker) -> None:
        try:
            lines = worker.receive()
            answers: dict[Session, list[tuple[Read, Slot | None]]] = {}
            try:
                for line in lines:
                    given_back = worker.take_back_tasks(line)
                    for task in reversed(given_back or ()):
                        self._take_back(task)
                    if given_back is None:
                        for task, item, slot in worker.items_from(line):
                            answers.setdefault(task.session, []).append((Read(task.request, item), slot))
                            if isinstance(item, InputEnd):
                                self._failed_starts = 0
                                self._out_of_hand(task.session)
            finally:  # deliver what came before a malformed message
                for session, reads in answers.items():
                    self._tell(session, reads)
        except EOFError:
            if not worker.is_deaf:  # else ``_watch`` gives a more exact reason
                self._lose(worker, "crashed")
        except Starved:
            limit_mb = worker.tasks[0].session.settings.max_memory_mb
            self._lose(worker, "too_large", f"decoding it needs more than {limit_mb} MB")
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError):
            log.debug("a decode worker sent a malformed message", exc_info=True)
            self._lose(worker, "crashed", "the decode process sent malformed messages")

    def _tell(self, session: Session, reads: list[tuple[Read, Slot | None]]) -> None:
        if not session.is_closed:
            session.answers.put(reads)

    def _take_back(self, task: Task) -> None:
        session = task.session
        session.in_hand -= 1
        if not session.is_closed:
            (session.failed if task.is_last_try else session.pending).appendleft(task.request)

    def _out_of_hand(self, session: Session) -> None:
        session.in_hand -= 1
        session.waits_since_s = time.monotonic()

    def _watch(self, worker: Worker) -> None:
        """End a worker that makes no progress or does not read its messages."""
        now_s = time.monotonic()
        if worker.is_deaf:
            self._lose(worker, "crashed", "the decode process does not read its messages")
        elif not worker.ready:
            if now_s - worker.heard_s > START_TIMEOUT_S:
                self._lose(worker, "timeout", f"the decode process did not start within {START_TIMEOUT_S:g} s")
        elif worker.is_unwanted_for(DROP_S):
            self._lose(worker, "timeout", "the decode process did not abandon a cancelled input")
        else:
            reason = worker.is_silent()
            if reason:
                self._lose(worker, "timeout", reason)

    def _lose(self, worker: Worker, state: str, reason: str = "") -> None:
        """Remove a worker that has ended (empty ``reason``) or must end; blame only the file being read."""
        self._turns.workers.remove(worker)
        self._selector.unregister(worker)
        ending, last_words = worker.end(has_hung_up=not reason)
        guilty = worker.tasks.popleft() if worker.reading else None
        for task in reversed(worker.tasks):
            self._take_back(task)
        if guilty is None or worker.reading is None:
            if worker.tasks or not worker.ready:
                self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS:
                self._failed_starts = self._warm = 0
                self._fail(
                    self._turns.waiting(),
                    RuntimeFailure(f"decode workers do not start ({ending}): {last_words}", fix="vidrisk doctor"),
                )
            return
        session = guilty.session
        self._out_of_hand(session)
        if session.is_closed:
            return
        reason = reason or f"its decoder crashed ({ending})"
        log.info("%r: %s: %s", guilty.request.path, reason, last_words)
        item: Item = Again()
        if guilty.is_last_try or not session.limits.retries:
            item = worker.end_of(worker.reading, state, reason)
        else:
            session.failed.append(guilty.request)
        self._tell(session, [(Read(guilty.request, item), None)])

    # Feeding.

    def _hand_out(self) -> None:
        """Give requests to the workers with the fewest tasks; sessions take turns."""
        waiting = self._turns.waiting()
        ahead = AHEAD if len(waiting) < 2 else AHEAD_SHARED
        while waiting:
            session = waiting.pop(0)
            is_last_try = session.is_alone
            worker = self._turns.worker_for(session, ahead, is_last_try)
            if worker is None:
                continue
            request = (session.failed if is_last_try else session.pending).popleft()
            session.in_hand += 1
            worker.give(Task(session, request, is_last_try))
            self._turns.sessions.remove(session)
            self._turns.sessions.append(session)
            if session.is_waiting:
                waiting.append(session)

    def _grow(self) -> bool:
        """Start workers for waiting requests.

        They are started up to the maximum, in place of idle ones that do not fit, and additionally for starved
        sessions.
        """
        before = len(self._turns.workers)
        for session in list(self._turns.sessions):
            if not session.is_waiting:
                continue
            wanted = 1 if session.is_alone else len(session.pending)
            while self._turns.starting(session) < wanted:
                if not self._turns.may_start():
                    idle = self._turns.idle()
                    if idle:
                        self._dismiss(idle)
                    elif not self._turns.may_exceed_for(session):
                        break
                if not self._start(session):
                    break
        while len(self._turns.workers) < min(self._warm, self._turns.count) and self._start(None):
            pass
        return len(self._turns.workers) > before

    def _start(self, session: Session | None) -> bool:
        try:
            self._cache = (session and session.cache) or self._cache
            worker = Worker(self._cache)  # even if this call uses no cache: the next one may use it
        except OSError as error:
            self._fail(
                [session] if session else [],
                RuntimeFailure(f"a decode worker cannot be started: {error.strerror}", fix="use fewer workers"),
            )
            self._warm = 0
            return False
        self._turns.workers.append(worker)
        self._selector.register(worker, selectors.EVENT_READ)
        return True

    def _shrink(self) -> None:
        """End surplus workers, and all but one if the pool has been idle for a long time."""
        while worker := self._turns.surplus():
            self._dismiss(worker)
        if self._is_busy():
            self._busy_s = time.monotonic()
        elif time.monotonic() - self._busy_s >= IDLE_S:
            self._warm = min(self._warm, 1)
            while len(self._turns.workers) > 1 and (worker := self._turns.idle()):
                self._dismiss(worker)

    def _dismiss(self, worker: Worker) -> None:
        self._turns.workers.remove(worker)
        self._selector.unregister(worker)
        worker.end()
