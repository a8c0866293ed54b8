"""SIGTERM, with which systemd ends a service, ends a watch as Ctrl-C does, and is no failure."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vidrisk.runtimes.contract.errors import Interrupted
from vidrisk.watch import notify


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """The block ends quietly on SIGTERM. For the main thread.

    Raises:
        Interrupted: Ctrl-C.
    """
    came = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if not came:  # a second one must not disturb what the first one has begun
            came = True
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        notify.stopping()
        if not came:
            raise Interrupted("stopped by Ctrl-C", fix="the same command goes on where this one stopped") from None
    finally:
        signal.signal(signal.SIGTERM, before)
