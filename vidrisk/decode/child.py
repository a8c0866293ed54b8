"""Child process that works on one untrusted file at a time and is monitored and ended over a socket.

Whatever a file does to a decoder happens in this process.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from vidrisk.decode.wire import Line

# Use the module path of the parent, not the folder that the child happens to start in.
START = "import sys; sys.path[:] = sys.argv[{end}:]; from {module} import main; main(*sys.argv[1:{end}])"
HANG_UP_S = 1.0
KILL_S = 5.0
LAST_WORDS_BYTES = 4096
PIPE_BYTES = 1 << 16  # capacity of a pipe on Linux


class Child:
    """A process that runs ``module.main(socket, *arguments)``.

    All arguments are text. The process runs in UTF-8 mode, whatever the locale, so it can open any path that is sent to
    it in the form of ``paths.stored_from_path``.

    Args:
        module: module whose ``main`` is run.
        arguments: further arguments of ``main``.
        descriptors: descriptors that it inherits in addition to its socket.

    Attributes:
        line: connection to it, which never blocks on this side.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, module: str, arguments: Sequence[str], descriptors: Sequence[int] = ()) -> None:
        with ExitStack() as on_failure:
            ours, theirs = socket.socketpair()
            on_failure.callback(ours.close)
            ours.setblocking(False)
            errors, their_errors = os.pipe()
            self._errors = on_failure.enter_context(os.fdopen(errors, "rb", buffering=0))
            with theirs, os.fdopen(their_errors, "wb", buffering=0):
                for end in (
                    errors,
                    their_errors,
                ):  # a child that writes more than is read continues; the excess is lost
                    os.set_blocking(end, False)
                start = START.format(module=module, end=2 + len(arguments))
                self._process = subprocess.Popen(
                    [sys.executable, "-X", "utf8", "-c", start, str(theirs.fileno()), *arguments, *sys.path],
                    pass_fds=(theirs.fileno(), *descriptors),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=their_errors,
                    start_new_session=True,  # so that Ctrl-C reaches only the parent
                    env={
                        **os.environ,
                        "OPENBLAS_NUM_THREADS": "1",
                        "OMP_NUM_THREADS": "1",
                        "PYTHONIOENCODING": "utf-8",
                    },
                )
            on_failure.pop_all()
        self.line = Line(ours)
        self._last_words = b""

    def bytes_read(self) -> int:
        """Return the number of bytes that it has read so far, or 0 if the system does not report it."""
        try:
            return int(Path(f"/proc/{self._process.pid}/io").read_text(encoding="ascii").split()[1])
        except (OSError, IndexError, ValueError):
            return 0

    def read_errors(self) -> None:
        """Drain its standard error so that it does not fill up; keep the last part."""
        self._last_words = (self._last_words + (self._errors.read(PIPE_BYTES) or b""))[-LAST_WORDS_BYTES:]

    def end(self, *, has_hung_up: bool = False) -> tuple[str, str]:
        """Kill it if it is alive; return how it ended, in words, and the last line of its standard error.

        If ``has_hung_up``, it is about to exit by itself.
        """
        self.line.close()
        with suppress(subprocess.TimeoutExpired):
            if has_hung_up:
                self._process.wait(HANG_UP_S)
        self._process.kill()
        with self._errors:
            try:
                ending = _ending(self._process.wait(KILL_S))
            except subprocess.TimeoutExpired:
                ending = "it cannot be killed"
            self.read_errors()
        lines = self._last_words.decode(errors="replace").splitlines()
        return ending, next((line.strip() for line in reversed(lines) if line.strip()), "")


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
