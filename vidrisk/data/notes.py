"""Reports what is left out of data, one line per kind, in the log and in the notes of a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from vidrisk.data.table import first_three
from vidrisk.runtimes.contract.errors import DataError

log = logging.getLogger(__name__)


def notes_of_left_out(name: str, left_out: Mapping[str, Sequence[str]], *, strict: bool) -> list[str]:
    """Warn of what is left out of data; return the warnings, one line per kind.

    ``name`` is that of the data; ``left_out`` are the names of what is left out, by kind.

    Raises:
        DataError: with ``strict``, something is left out.
    """
    lines = [f"{name}: {what}: {len(names)} ({first_three(names)})" for what, names in left_out.items() if names]
    if lines and strict:
        raise DataError(lines[0], fix="get or correct them, or read the data without strict, which leaves these out")
    for line in lines:
        log.warning("%s; they are left out", line)
    return [f"{line}; they are left out" for line in lines]
