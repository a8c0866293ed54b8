"""Setup of names and streams at the start: UTF-8 mode for file names, and output that never fails.

Python decodes file names by the locale, and so do the libraries that open files. In a locale other than UTF-8 they
disagree about names, or cannot write them at all. Therefore the command restarts itself in Python's UTF-8 mode (PEP
540): every name then keeps its bytes, in this process and in its child processes. The console keeps the locale's
encoding.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from vidrisk.files.paths import locale_encoding

if TYPE_CHECKING:
    from typing_extensions import Buffer

UTF8_MODE = ("-X", "utf8")


def restart_in_utf8() -> None:
    """Replace this process by one in UTF-8 mode if the locale is not UTF-8.

    Returns if that is unnecessary or impossible. The arguments are read as bytes from the kernel, because Python's
    decoding of them cannot be reversed in some locales.
    """
    own_arguments = sys.orig_argv[len(sys.orig_argv) - len(sys.argv) + 1 :] == sys.argv[1:]
    if sys.getfilesystemencoding() == "utf-8" or _is_restarted() or not own_arguments:
        return
    with suppress(OSError):
        program, *arguments = Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]
        options = [word.encode() for word in UTF8_MODE]
        os.execve(sys.executable, [program, *options, *arguments], {**os.environb, b"PYTHONUTF8": b"1"})


def _is_restarted() -> bool:
    return tuple(sys.orig_argv[1:3]) == UTF8_MODE


def _console_encoding(stream: TextIO | None) -> str:
    """Return the encoding that Python uses for the console, or would use without the restart."""
    if stream and ("PYTHONIOENCODING" in os.environ or not _is_restarted()):
        return stream.encoding
    try:
        return codecs.lookup(locale_encoding()).name
    except LookupError:
        return "ascii"


def settle_streams() -> None:
    """Make standard output and error accept everything.

    A character that the console lacks is shown as ``?``. Output without a reader (as with ``| head``), or for a full
    disk, is dropped: the command goes on, and its exit code reports on its work. A closed stream is replaced by the
    null device, before a file of the command gets its number.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
    sys.stdout, sys.stderr = _lenient(sys.stdout, 1), _lenient(sys.stderr, 2)


def find_lost_output() -> OSError | None:
    """Return the error that prevented output from being written, or None.

    A reader that has gone does not count.
    """
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.problem if isinstance(raw, _Pipe) else None


class _Pipe(io.FileIO):
    """A stream that may be lost while the command goes on: its reader is gone, or the disk is full."""

    problem: OSError | None = None

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.problem = error
            return memoryview(data).nbytes


def _lenient(stream: TextIO | None, number: int) -> TextIO:
    if stream is not None and type(stream) is not io.TextIOWrapper:  # replaced by the caller, as in a test
        return stream
    encoding = _console_encoding(stream)
    pipe = _Pipe(number, "w", closefd=False)
    if stream:
        with suppress(OSError):
            stream.flush()
    is_immediate = number == 2 or pipe.isatty() or bool(stream and stream.write_through)
    return io.TextIOWrapper(io.BufferedWriter(pipe), encoding, errors="replace", line_buffering=is_immediate)
