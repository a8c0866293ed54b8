"""Notifications to systemd by its own protocol (sd_notify(3)): lines of text in one datagram to ``$NOTIFY_SOCKET``.

Without systemd, all functions do nothing.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

BEAT_S = 5.0


def ready() -> None:
    """Report that the service has started."""
    _tell("READY=1")


def alive() -> None:
    """Reset the watchdog (``WatchdogSec=``), which restarts a service that is silent for too long."""
    _tell("WATCHDOG=1")


def status(text: str) -> None:
    """Set the line shown by ``systemctl status``."""
    _tell(f"STATUS={' '.join(text.split())}")


def report_stopping() -> None:
    _tell("STOPPING=1")


@contextmanager
def keep_watchdog_alive() -> Iterator[None]:
    """Reset the watchdog periodically during work that takes long and is known to end."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT_S):
            alive()

    thread = threading.Thread(target=beat, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _tell(line: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket, whose name begins with a zero byte
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line_to_systemd:
        line_to_systemd.sendto(line.encode("utf-8", "backslashreplace"), address)
