"""Who reads what next: sessions take turns at the workers that there are."""

from __future__ import annotations

import time
from collections.abc import Iterator

from vidrisk.decode.session import Session
from vidrisk.decode.supervised import Worker

# the input that a worker reads and the next ones: it need not wait to be told, and lets itself into all of them at once
AHEAD = 8
AHEAD_SHARED = 2  # the same where several sessions wait
MAX_WORKERS = 64
PATIENCE_S = 0.25  # of a session that nobody reads for


def fits(worker: Worker, session: Session) -> bool:
    """Whether a worker may read for a session: it may write the session's cache, if that has one."""
    return session.cache is None or worker.cache == session.cache


class Turns:
    """Sessions and workers of a pool, and what may be given to whom.

    Attributes:
        count: of workers, that there should be at most.
        sessions: whose turn is next comes first.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.workers: list[Worker] = []
        self.sessions: list[Session] = []

    def waiting(self) -> list[Session]:
        return [session for session in self.sessions if session.is_waiting]

    def worker_for(self, session: Session, ahead: int, is_last_try: bool) -> Worker | None:
        """The worker that may have the session's next request now; None where it has to wait."""
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

    def asked_back(self) -> Iterator[Worker]:
        """Workers that have what is not begun, where somebody else could read it: an hour of video may lie before it."""
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
        """Whether for a while nobody has read anything of a session, or is about to, though it waits."""
        if session.is_closed or not (session.is_waiting or session.in_hand):
            return False
        being_read = any(worker.tasks and worker.tasks[0].session is session for worker in self.workers)
        return not being_read and time.monotonic() - session.waits_since_s > PATIENCE_S

    def starting(self, session: Session) -> int:
        return sum(not worker.ready and fits(worker, session) for worker in self.workers)

    def may_start(self) -> bool:
        return len(self.workers) < self.count

    def may_exceed_for(self, session: Session) -> bool:
        """Whether one worker more than there should be may be started for a session that nobody reads for."""
        return self.is_starved(session) and not self.starting(session) and len(self.workers) < MAX_WORKERS

    def surplus(self) -> Worker | None:
        """A worker that is more than there should be and has nothing to do: rather one that starts, for a session that was read for
        meanwhile, than one that reads fast because it has read before.
        """
        if len(self.workers) <= self.count:
            return None
        starting = next((worker for worker in self.workers if not worker.ready), None)
        return self.idle() if starting is None or any(map(self.is_starved, self.sessions)) else starting

    def idle(self) -> Worker | None:
        return next((worker for worker in self.workers if worker.is_idle), None)
