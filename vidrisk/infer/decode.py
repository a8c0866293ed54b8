"""Source → decode: a few threads read files ahead, and what they read comes out in the order of the inputs.

Decoders and Pillow release the interpreter's lock, so decoding overlaps inference. Every file has a short queue of
its own; a thread that is ahead waits there, so memory is bounded by ``workers``, not by the length of a video or list.
"""

from __future__ import annotations

import logging
import os
import queue
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vidrisk.frames import Clip, Decoder, read_clips
from vidrisk.frames.media import name_of
from vidrisk.infer.ledger import Row
from vidrisk.runtimes.errors import UnreadableError
from vidrisk.runtimes.specs import PixelSpec, TimeSpec

_log = logging.getLogger(__name__)

CLIPS_AHEAD = 4
POLL_S = 0.1


@dataclass(frozen=True)
class ReadClip:
    """One clip or window of the input that is being read."""

    clip: Clip


@dataclass(frozen=True)
class ReadEnd:
    """The end of an input: its row in its final state (but for the count of predictions)."""

    row: Row
    decode_s: float


Read = ReadClip | ReadEnd


def read_input(row: Row, pixel: PixelSpec, time_spec: TimeSpec | None, decoder: Decoder) -> Iterator[Read]:
    """Clips of one input, then its end. Never raises: what goes wrong becomes the state and the reason of the row.

    An input that fails after its first clips is ``partial``: what could be read counts.
    """
    decode_s, clips, damage = 0.0, 0, None
    state, reason = "ok", ""
    started_s = time.perf_counter()
    try:
        info = Path(row.path).stat()
        row = replace(row, bytes=info.st_size, mtime_ns=info.st_mtime_ns)
        _refuse_folder(row.path, info)
        for clip in read_clips(row.path, pixel, time_spec, decoder=decoder):
            clips, damage = clips + 1, clip.damage or damage
            decode_s += time.perf_counter() - started_s
            yield ReadClip(clip)
            started_s = time.perf_counter()
        if damage or not clips:
            state, reason = ("partial", damage) if damage and clips else ("corrupt", "no frame could be read")
    except UnreadableError as error:
        state, reason = ("partial" if clips else error.state), str(error).removeprefix(f"{name_of(row.path)} ")
    except OSError as error:
        state, reason = ("partial" if clips else "skipped"), error.strerror or repr(error)
    except Exception as error:  # one file's decoder must not end the run
        _log.debug("reading %r crashed", row.path, exc_info=True)
        state, reason = ("partial" if clips else "crashed"), " ".join(f"{type(error).__name__}: {error}".split())
    yield ReadEnd(replace(row, state=state, reason=reason), decode_s + time.perf_counter() - started_s)


def _refuse_folder(path: str, info: os.stat_result) -> None:
    """A folder among the inputs is one that could not be listed: say why."""
    if stat.S_ISDIR(info.st_mode):
        with os.scandir(path):
            raise UnreadableError("a folder that could not be listed before", state="skipped")


def read_in_order(rows: Iterable[Row], read: Callable[[Row], Iterator[Read]], *,
                  workers: int) -> Generator[Read, None, None]:
    """Run ``read`` over ``rows`` in ``workers`` threads; yield what it yields in the order of ``rows``.

    The next file in order is always in a thread's hands, so the wait for it ends. Close the iterator to stop the
    threads; they are daemons, so that one which hangs inside a decoder cannot keep the process alive.
    """
    jobs: queue.SimpleQueue[tuple[Row, queue.Queue[Read | None]] | None] = queue.SimpleQueue()
    stop = threading.Event()

    def work() -> None:
        while (job := jobs.get()) is not None and not stop.is_set():
            row, channel = job
            for item in read(row):
                if not _put(channel, item, stop):
                    return
            _put(channel, None, stop)

    threads = [threading.Thread(target=work, name=f"decode-{i}", daemon=True) for i in range(workers)]
    lined_up: deque[queue.Queue[Read | None]] = deque()
    remaining = iter(rows)

    def line_up_next() -> None:
        for row in remaining:
            lined_up.append(queue.Queue(CLIPS_AHEAD))
            jobs.put((row, lined_up[-1]))
            return

    try:
        for thread in threads:
            thread.start()
        for _ in range(2 * workers):
            line_up_next()
        while lined_up:
            channel = lined_up.popleft()
            while (item := channel.get()) is not None:
                yield item
            line_up_next()
    finally:
        stop.set()
        for _ in threads:
            jobs.put(None)
        for thread in threads:
            thread.join(POLL_S)


def _put(channel: queue.Queue[Read | None], item: Read | None, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            channel.put(item, timeout=POLL_S)
        except queue.Full:
            continue
        return True
    return False
