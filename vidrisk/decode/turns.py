"""Scheduling of sessions: which worker reads which request next."""

from __future__ import annotations

import time
from collections.abc import Iterator

from vidrisk.decode.session import Session
from vidrisk.decode.supervised import Worker

# The input being read and the next ones: the worker need not wait for a message, and opens access to all at once.
AHEAD = 8
AHEAD_SHARED = 2  # the same if several sessions wait
MAX_WORKERS = 64
PATIENCE_S = 0.25  # after which a session that no worker serves is starved


def fits(worker: Worker, session: Session) -> bool:
    """Return whether a worker may read for a session: it must have the session's cache, if there is one."""
    return session.cache is None or worker.cache == session.cache


class Turns:
    """Sessions and workers of a pool, and the rules by which requests are assigned.

    Attributes:
        count: maximum number of workers.
        sessions: in the order of their turns, the next one first.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.workers: list[Worker] = []
        self.sessions: list[Session] = []

    def waiting(self) -> list[Session]:
        return [session for session in self.sessions if session.is_waiting]

    def worker_for(self, session: Session, ahead: int, is_last_try: bool) -> Worker | None:
        """Return the worker that may take the session's next request now, or None if it has to wait."""
        fitting = [
            worker
            for worker in self.workers
            if worker.ready
            and fits(worker, session)
            and not worker.is_asked_back
            and not worker.is_blocked_for(session)
            and (worker.is_fresh or not is_last_try)
        ]
        least = min(fitting, key=lambda worker: len(worker.tasks), default=None)
        if least is None or not least.tasks:
            return least
        is_others = least.tasks[0].session is not session and self.is_starved(session)
        is_one_coming = self.may_start() and self.starting(session) < len(session.pending)
        if is_last_try or len(least.tasks) >= ahead or is_others or is_one_coming or least.tasks[-1].is_last_try:
            return None
        return least

    def find_workers_to_ask_back(self) -> Iterator[Worker]:
        """Yield workers with unstarted requests that another worker could read.

        Such a request may be queued behind an hour of video.
        """
        idle = [worker for worker in self.workers if worker.is_idle]
        for worker in self.workers:
            if worker.reading and len(worker.tasks) > 1 and not worker.is_asked_back:
                first, *rest = (task.session for task in worker.tasks)
                if any(
                    any(fits(other, session) for other in idle) or (session is not first and self.is_starved(session))
                    for session in rest
                    if not session.is_closed
                ):
                    yield worker

    def is_starved(self, session: Session) -> bool:
        """Return whether a session waits although no worker has read, or is about to read, for it for a while."""
        if session.is_closed or not (session.is_waiting or session.in_hand):
            return False
        being_read = any(worker.tasks and worker.tasks[0].session is session for worker in self.workers)
        return not being_read and time.monotonic() - session.waits_since_s > PATIENCE_S

    def starting(self, session: Session) -> int:
        return sum(not worker.ready and fits(worker, session) for worker in self.workers)

    def may_start(self) -> bool:
        return len(self.workers) < self.count

    def may_exceed_for(self, session: Session) -> bool:
        """Return whether one worker above the maximum may be started for a starved session."""
        return self.is_starved(session) and not self.starting(session) and len(self.workers) < MAX_WORKERS

    def surplus(self) -> Worker | None:
        """Return an idle worker above the maximum, or None.

        A worker that is still starting is preferred, since its session has been served meanwhile, over one that has
        read before and is therefore fast.
        """
        if len(self.workers) <= self.count:
            return None
        starting = next((worker for worker in self.workers if not worker.ready), None)
        return self.idle() if starting is None or any(map(self.is_starved, self.sessions)) else starting

    def idle(self) -> Worker | None:
        return next((worker for worker in self.workers if worker.is_idle), None)
