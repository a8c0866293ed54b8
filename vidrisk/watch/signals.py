"""Handling of SIGTERM, with which systemd stops a service: it ends a watch like Ctrl-C, but is not a failure."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vidrisk.runtimes.contract.errors import Interrupted
from vidrisk.watch import notify


@contextmanager
def end_on_sigterm() -> Iterator[None]:
    """Leave the block quietly on SIGTERM. For the main thread.

    Raises:
        Interrupted: Ctrl-C.
    """
    came = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if not came:  # a second signal must not interrupt the shutdown
            came = True
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        notify.report_stopping()
        if not came:
            raise Interrupted("stopped by Ctrl-C", fix="the same command goes on where this one stopped") from None
    finally:
        signal.signal(signal.SIGTERM, before)
