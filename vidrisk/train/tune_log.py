"""Log of a search, ``RUN/tune/tune.jsonl``: a line for each finished fold of each trial, synced to disk.

The first line identifies the search. A line that was truncated because the process was killed is ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.errors import BundleError, DataError

LOG = "tune.jsonl"


@dataclass(frozen=True)
class Outcome:
    """Result of one trial on one fold.

    Attributes:
        losses: loss of every held-out sample, in nats; empty if the trial failed.
        metric: metric of the held-out samples.
        seconds: time of training and evaluation.
        failed: the reason, if the trial failed.
    """

    trial: int
    fold: int
    settings: dict[str, Any] = field(default_factory=dict)
    losses: tuple[float, ...] = ()
    metric: float | None = None
    seconds: float = 0.0
    failed: str = ""


@dataclass(frozen=True)
class _Head:
    """The first line."""

    fingerprint: str
    folds: int


class TuneLog:
    """Outcomes by trial and fold.

    Args:
        folder: folder of the log; it is made with the first line.
        fingerprint: fingerprint of the search; another search's log is refused.

    Raises:
        BundleError: the log is damaged, or was left by another search.
    """

    def __init__(self, folder: Path, fingerprint: str, folds: int) -> None:
        self.path = folder / LOG
        self._head = _Head(fingerprint, folds)
        self._whole_bytes = 0  # up to the end of the last complete line
        self._found: dict[tuple[int, int], Outcome] = {}
        if self.path.is_file():
            self._read()

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self._found.values())

    def get(self, trial: int, fold: int) -> Outcome | None:
        """Return the outcome of a trial on a fold, or None."""
        return self._found.get((trial, fold))

    def add(self, outcome: Outcome) -> Outcome:
        """Append an outcome; return it when it is on the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            file.truncate(self._whole_bytes)
            file.seek(self._whole_bytes)
            if not self._whole_bytes:
                file.write(_line(asdict(self._head)))
            file.write(_line(asdict(outcome)))
            file.flush()
            os.fsync(file.fileno())
            self._whole_bytes = file.tell()
        self._found[outcome.trial, outcome.fold] = outcome
        return outcome

    def _read(self) -> None:
        lines = self.path.read_bytes().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # truncated
        self._whole_bytes = sum(map(len, lines))
        try:
            records = [json.loads(line) for line in lines]
            head = [_Head(**versions.TUNE_LOG.read_fields(record, _Head)) for record in records[:1]]
            read = [Outcome(**versions.TUNE_LOG.read_fields(record, Outcome)) for record in records[1:]]
            found = [replace(each, losses=tuple(each.losses)) for each in read]
        except (ValueError, TypeError, DataError) as error:
            raise BundleError(
                f"{self.path} is damaged: {error}", fix="delete the run's folder and train again"
            ) from error
        if head and head[0] != self._head:
            raise other_search(self.path)
        self._found = {(each.trial, each.fold): each for each in found}


def other_search(path: Path) -> BundleError:
    """Return the error for a file that another search has left."""
    return BundleError(
        f"{path} was left by a search with other settings or data",
        fix="resume with the same ones, or choose another run folder",
    )


def _line(record: dict[str, Any]) -> bytes:
    text = json.dumps(versions.TUNE_LOG.stamp(record), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"
