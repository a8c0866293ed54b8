"""One process that reads thumbnails, as the page sees it.

    page → worker    {"read": [path, [moment_s, …], max_bytes]}    one input at a time
    worker → page    {"ready": true}                               it has started
                     {"frame": true}                               it gets on: a frame has been decoded
                     {"thumbnails": [[webp, width, height, time_s], …]}

What it sends is checked, and never decoded here.
"""

from __future__ import annotations

import base64
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from vidrisk.frames.media import MAX_DURATION_S, is_image
from vidrisk.infer.child import Child
from vidrisk.report.thumbnails import MAX_SIDE_PX, Thumbnail

SILENCE_S = 20.0
MAX_INPUT_S = 600.0
CHECK_S = 0.5


@dataclass(frozen=True)
class Wish:
    """The thumbnails that are wanted of one input: see ``thumbnails.thumbnails_at``."""

    path: str
    moments_s: tuple[float, ...]
    max_bytes: int


class ThumbnailWorker:
    """A process that reads the thumbnails of one input at a time.

    Attributes:
        ready: whether it has started.
        wish, place: what it is at, and that wish's place among all; no wish while it has nothing to do.
    """

    def __init__(self, max_memory_mb: int) -> None:
        self.ready = False
        self.wish: Wish | None = None
        self.place = 0
        self._bytes_read = 0
        self._child = Child("vidrisk.report.worker", [str(max_memory_mb)])
        self._line = self._child.line

    def fileno(self) -> int:
        return self._line.fileno()

    def ask(self, place: int, wish: Wish) -> None:
        self.place, self.wish = place, wish
        self._asked_s = self._alive_s = time.monotonic()
        with suppress(OSError):  # it has ended, which the next ``receive`` tells
            self._line.send({"read": [wish.path, wish.moments_s, wish.max_bytes]})

    def receive(self) -> tuple[Thumbnail, ...]:
        """The thumbnails that were asked for; none where they have not come yet.

        Raises:
            EOFError: the process has ended.
            ValueError, TypeError, KeyError, RecursionError: it talks nonsense.
        """
        lines = self._line.receive()
        self._alive_s = time.monotonic()
        thumbnails: tuple[Thumbnail, ...] = ()
        for message in map(json.loads, lines):
            if not self.wish:
                raise ValueError("it speaks without being asked")
            if "ready" in message:
                self.ready = True
            elif "frame" not in message:
                thumbnails = thumbnails_from_message(message, self.wish)
                self.wish = None
        return thumbnails

    def is_lost(self) -> bool:
        """Whether it is at a wish and has neither said anything nor read on for ``SILENCE_S``, or has taken ``MAX_INPUT_S``. (To
        find the frames of a large file takes longer than to decode one.)"""
        now_s = time.monotonic()
        if self.wish and now_s - self._alive_s > CHECK_S:
            bytes_read = self._child.bytes_read()
            if bytes_read > self._bytes_read or self._line.has_something():
                self._alive_s, self._bytes_read = now_s, bytes_read
        return self.wish is not None and (now_s - self._alive_s > SILENCE_S or now_s - self._asked_s > MAX_INPUT_S)

    def end(self, *, has_hung_up: bool = False) -> tuple[str, str]:
        """See ``Child.end``."""
        return self._child.end(has_hung_up=has_hung_up)


def thumbnails_from_message(message: dict[str, Any], wish: Wish) -> tuple[Thumbnail, ...]:
    """An answer, checked: nothing in it can harm the page.

    Raises:
        ValueError, TypeError, KeyError: it is no answer to the wish.
    """
    thumbnails = tuple(Thumbnail(*fields) for fields in message["thumbnails"])
    if len(thumbnails) not in (0, len(wish.moments_s)):
        raise ValueError(f"{len(thumbnails)} thumbnails for {len(wish.moments_s)} moments")
    total_bytes = 0
    for thumbnail in thumbnails:
        webp = base64.b64decode(thumbnail.webp, validate=True)
        total_bytes += len(webp)
        sides = thumbnail.width, thumbnail.height
        if (webp[:4], webp[8:12]) != (b"RIFF", b"WEBP") or not all(type(side) is int and 0 < side <= MAX_SIDE_PX for side in sides):
            raise ValueError(f"a picture of {sides}")
        if is_image(wish.path) != (thumbnail.time_s is None) or not 0 <= (thumbnail.time_s or 0) <= MAX_DURATION_S:
            raise ValueError(f"a picture at {thumbnail.time_s!r} s")
    if total_bytes > wish.max_bytes:
        raise ValueError(f"{total_bytes} bytes where {wish.max_bytes} were asked for")
    return thumbnails
