"""A process that reads thumbnails, the other end of ``pool``, so that no decoder runs in the process that makes the page.

It ends when the one that started it ends, however that ends.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import astuple

from vidrisk.infer.wire import Line
from vidrisk.infer.worker import end_with_parent, limit_memory
from vidrisk.report.thumbnails import thumbnails_at


def main(end: str, max_memory_mb: str) -> None:
    """Read one input after another until nobody is at the other end.

    Args:
        end: inherited descriptor of a socket.
        max_memory_mb: what may be allocated beyond what the process starts with.
    """
    end_with_parent()
    line = Line(socket.socket(fileno=int(end)))
    limit_memory(int(max_memory_mb))
    with suppress(EOFError, ConnectionError):
        _work(line)
    os._exit(0)  # no decoder's clean-up may hang or crash now


def _work(line: Line) -> None:
    line.send({"ready": True})
    while True:
        for message in map(json.loads, line.receive()):
            path, moments_s, max_bytes = message["read"]
            thumbnails = thumbnails_at(path, moments_s, max_bytes, on_frame=lambda: line.send({"frame": True}))
            line.send({"thumbnails": [astuple(thumbnail) for thumbnail in thumbnails]})
