"""Progress and speed of a run over a folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from vidrisk.inference.meter import Meter
from vidrisk.jobs.ledger import Row


@dataclass(frozen=True)
class Pace:
    """Speed of a run.

    Attributes:
        files_per_s, clips_per_s: of this run alone.
        decoded, batched: frames that wait in a decode process, and that wait for their batch to fill.
        bottleneck: the stage that the others have waited for longest.
    """

    files_per_s: float
    clips_per_s: float
    decoded: int
    batched: int
    bottleneck: str


@dataclass(frozen=True)
class Progress:
    """Progress of a run, counted over the whole output folder, and its speed.

    Attributes:
        uncertain: counts this run's predictions alone.
    """

    files: int
    files_total: int
    files_failed: int
    clips: int
    uncertain: int = 0
    pace: Pace | None = None


def pace_from_meter(progress: Progress, before: Progress, elapsed_s: float, meter: Meter) -> Pace:
    waited = {
        "decode": meter.seconds["waiting for decode"],
        "encode": meter.seconds["waiting for encode"],
        "head": meter.seconds["head"],
        "write": meter.seconds["write"],
    }
    return Pace(
        (progress.files - before.files) / elapsed_s,
        meter.windows / elapsed_s,
        meter.decoded,
        meter.batched,
        max(waited, key=waited.__getitem__),
    )


def progress_from_rows(rows: Iterable[Row]) -> Progress:
    progress = Progress(0, 0, 0, 0)
    for row in rows:
        progress = replace(progress, files_total=progress.files_total + 1)
        progress = progress if row.state == "pending" else count_row(progress, row)
    return progress


def count_row(progress: Progress, row: Row) -> Progress:
    return replace(
        progress,
        files=progress.files + 1,
        clips=progress.clips + row.predictions,
        files_failed=progress.files_failed + (row.state != "ok"),
    )
