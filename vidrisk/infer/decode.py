"""Source → decode: what the decode stage hands on, and one decode worker as the run sees it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.infer.ledger import Row
from vidrisk.infer.wire import Line, ReadSettings, Slots, shared_memory

# The run's own module path, instead of the folder that a worker happens to start in.
START = "import sys; sys.path[:] = sys.argv[4:]; from vidrisk.infer.worker import main; main(*sys.argv[1:4])"
HANG_UP_S = 1.0
KILL_S = 5.0


@dataclass(frozen=True, eq=False)
class ReadFrame:
    """One frame of an input. ``pixels``, uint8 (H, W, 3), are a view that the next read overwrites: copy them."""

    row_id: int
    index: int
    time_s: float
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class ReadFeatures:
    """One frame of an input whose ``features``, float32 (D,), are known."""

    row_id: int
    index: int
    time_s: float
    features: npt.NDArray[np.float32]


@dataclass(frozen=True)
class ReadWindow:
    """A window of an input whose frames have all come. ``start_s`` and ``end_s`` are None for photos."""

    row_id: int
    start_s: float | None
    end_s: float | None
    indices: tuple[int, ...]


@dataclass(frozen=True)
class ReadAgain:
    """What came of this input does not count: it will be read again from its start."""

    row_id: int


@dataclass(frozen=True)
class ReadEnd:
    """The end of an input: its row in its final state (but for the count of predictions), and the key under which its
    features are to be kept, if they are."""

    row: Row
    decode_s: float
    key: str = ""


Read = ReadFrame | ReadFeatures | ReadWindow | ReadAgain | ReadEnd


class Worker:
    """A decode process. Inputs that it is given are read in their order.

    Attributes:
        rows: given and not ended; the first one is being read.
        windows: of the first one, so far.
        ready: whether it has started.
        last_words: once it has ended, the last line on its standard error.
    """

    def __init__(self, settings: ReadSettings) -> None:
        self.rows: deque[Row] = deque()
        self.windows = 0
        self.ready = False
        self.last_words = ""
        ours, theirs = socket.socketpair()
        memory = shared_memory(settings.slots, settings.pixel.frame_shape)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        arguments = [str(theirs.fileno()), str(memory), settings.to_json(), *sys.path]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", START, *arguments], pass_fds=(theirs.fileno(), memory), stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=self._errors, start_new_session=True,  # Ctrl-C is for the run alone
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"})
            self._slots = Slots(memory, settings.slots, settings.pixel.frame_shape)
        finally:
            theirs.close()
            os.close(memory)
        self._line = Line(ours)
        self._heard_s = time.monotonic()

    def fileno(self) -> int:
        return self._line.fileno()

    def give(self, row: Row) -> None:
        if not self.rows:
            self._heard_s = time.monotonic()
        self.rows.append(row)
        self._send({"read": row.path})

    def receive(self) -> list[bytes]:
        """Lines that it has sent, perhaps none.

        Raises:
            EOFError: the process has ended.
        """
        lines = self._line.receive()
        self._heard_s = time.monotonic()
        return lines

    def next_slot(self) -> npt.NDArray[np.uint8]:
        """The slot of the next frame, a view: ``free`` it when it has been copied."""
        return self._slots.next()

    def free(self) -> None:
        self._heard_s = time.monotonic()  # it may have waited for this
        self._send({"free": 1})

    def silent_s(self) -> float:
        """Seconds since the last sign of life; 0 while there is nothing to do."""
        return time.monotonic() - self._heard_s if self.rows else 0.0

    def end(self, *, has_hung_up: bool = False) -> str:
        """Kill the process if it lives; how it ended, in words. One that has hung up is about to end by itself."""
        self._line.close()
        with suppress(subprocess.TimeoutExpired):
            if has_hung_up:
                self._process.wait(HANG_UP_S)
        self._process.kill()
        try:
            return _ending(self._process.wait(KILL_S))
        except subprocess.TimeoutExpired:
            return "it cannot be killed"
        finally:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").splitlines()
            self.last_words = next((line.strip() for line in reversed(lines) if line.strip()), "")
            self._errors.close()

    def _send(self, message: dict[str, Any]) -> None:
        with suppress(OSError):  # it has ended, which the next ``receive`` tells
            self._line.send(message)


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
