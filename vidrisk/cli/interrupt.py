"""Immediate exit at the second Ctrl-C, whatever the command is doing.

The first one raises ``KeyboardInterrupt`` in the main thread, and finished work is kept. An engine that does not return
prevents that, so a thread counts the interrupts by Python's wakeup file descriptor: the C signal handler writes to it,
without waiting for the main thread to return from an engine. Output folders stay consistent, as after a kill.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vidrisk.runtimes.contract.errors import EXIT_INTERRUPTED

PATIENCE_S = 10.0
HINT = b"stopping; Ctrl-C again ends at once\n"
END = b"error: stopped at once by a second Ctrl-C\n"


@contextmanager
def end_at_second_interrupt() -> Iterator[None]:
    """Watch for interrupts while the block runs; does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    is_interrupted = threading.Event()
    thread = threading.Thread(target=_count, args=(ours, is_interrupted), name="interrupts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        if is_interrupted.is_set():
            # The command is ending: another signal would kill it without its exit code.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(before)
        theirs.close()
        thread.join()
        ours.close()


def _count(signals: socket.socket, is_interrupted: threading.Event) -> None:
    interrupts = 0
    while True:
        if interrupts and not select.select([signals], [], [], PATIENCE_S)[0]:
            _say(HINT)
        numbers = signals.recv(64)
        if not numbers:  # the block has ended
            return
        interrupts += numbers.count(signal.SIGINT)
        if interrupts:
            is_interrupted.set()
        if interrupts > 1:
            _say(END)
            os._exit(EXIT_INTERRUPTED)


def _say(line: bytes) -> None:
    with suppress(OSError):
        os.write(2, line)  # bypasses Python's buffer, whose lock the main thread may hold
