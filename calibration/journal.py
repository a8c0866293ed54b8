"""A journal of what a search has measured: a search that was stopped goes on where it was, and a second one repeats nothing."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidrisk.runtimes.folders import create_private, is_private_folder, make_private_folder, open_private

log = logging.getLogger(__name__)


class Journal:
    """Values by the name of the step that measured them, kept as lines of JSON.

    Args:
        path: the file; None keeps values for this process alone.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._begin = ""  # of the names of steps
        self._values: dict[str, Any] = {}
        text = ""
        try:
            if path and path.is_file() and is_private_folder(path.parent):
                with open_private(path) as file:
                    text = file.read().decode("utf-8", "replace")
        except OSError as error:
            log.info("%s cannot be read, so all is measured again: %s", path, error)
        for line in text.splitlines():
            try:
                step, value = json.loads(line)
                self._values[step] = value
            except (ValueError, TypeError):
                continue  # the last line of a process that was killed, or no line of a journal

    def value(self, step: str, measure: Callable[[], Any]) -> Any:
        """What ``measure`` gave when it was last asked for ``step``; it is called when it never was. JSON values only."""
        step = self._begin + step
        if step not in self._values:
            self._values[step] = measure()
            self._write(step)
        return self._values[step]

    def within(self, part: str) -> Journal:
        """The same journal for a part of a search that has steps of the same names as others."""
        journal = copy.copy(self)
        journal._begin = f"{self._begin}{part}: "
        return journal

    def _write(self, step: str) -> None:
        if self.path is None:
            return
        try:
            make_private_folder(self.path.parent)
            with create_private(self.path, append=True) as file:
                file.write(
                    ("\n" + json.dumps([step, self._values[step]])).encode()
                )  # newline first: the line before may be torn
        except OSError as error:
            log.info("the measurement is not kept: %s", error)  # costs a repetition, no more
            self.path = None
