"""What is left out of data, said in a line for each kind: in the log, and in what is kept of a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from vidrisk.data.table import first_three
from vidrisk.runtimes.contract.errors import DataError

log = logging.getLogger(__name__)


def notes_of_left_out(name: str, left_out: Mapping[str, Sequence[str]], *, strict: bool) -> list[str]:
    """Warn of what is left out of data; return what was said, a line for each kind.

    Args:
        name: of the data.
        left_out: names by what they are of.

    Raises:
        DataError: with ``strict``, where there is any.
    """
    lines = [f"{name}: {what}: {len(names)} ({first_three(names)})" for what, names in left_out.items() if names]
    if lines and strict:
        raise DataError(lines[0], fix="get or correct them, or read the data without strict, which leaves these out")
    for line in lines:
        log.warning("%s; they are left out", line)
    return [f"{line}; they are left out" for line in lines]
