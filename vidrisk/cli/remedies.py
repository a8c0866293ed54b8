"""Remedies of the library, as options of the command line: the library knows arguments, a user types flags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vidrisk.runtimes.contract.errors import VidriskError

FLAGS = {"the window or the stride": "--window or --stride", "run it again with resume, which": "the same command with --resume",
         "use fewer workers": "fewer --workers", "give a labels file": "--labels labels.txt",
         "give some as val, and as calib for INT8": "give some with --val, and with --calib for --int8",
         "say it in a pixel file": "say it with --pixel pixel.yaml"}


@contextmanager
def as_flags() -> Iterator[None]:
    """Name flags in the errors of the block.

    Raises:
        VidriskError: as it was raised, with the remedy in words of the command line.
    """
    try:
        yield
    except VidriskError as error:
        fix = error.fix
        for words, flags in FLAGS.items():
            fix = fix and fix.replace(words, flags)
        if fix != error.fix:
            VidriskError.__init__(error, error.what, allowed=error.allowed, fix=fix)
        raise
