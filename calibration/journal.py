"""A journal of a search's measurements, which lets an interrupted search resume and a second one reuse its values."""

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
    """Values by the name of the step that measured them, stored as JSON lines.

    Args:
        path: the file; None keeps values for this process only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._begin = ""  # prefix of step names
        self._values: dict[str, Any] = {}
        text = ""
        try:
            if path and path.is_file() and is_private_folder(path.parent):
                with open_private(path) as file:
                    text = file.read().decode("utf-8", "replace")
        except OSError as error:
            log.info("%s cannot be read; everything is measured again: %s", path, error)
        for line in text.splitlines():
            try:
                step, value = json.loads(line)
                self._values[step] = value
            except (ValueError, TypeError):
                continue  # the torn last line of a process that was killed, or not a journal line

    def value(self, step: str, measure: Callable[[], Any]) -> Any:
        """Return the stored result of ``step``, or call ``measure`` and store its result, which must be JSON."""
        step = self._begin + step
        if step not in self._values:
            self._values[step] = measure()
            self._write(step)
        return self._values[step]

    def within(self, part: str) -> Journal:
        """Return the same journal for a part of the search, with its own namespace of step names."""
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
            log.info("the measurement was not stored: %s", error)  # only costs a repetition
            self.path = None
