"""How far a run over a folder is, and how fast it goes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from vidrisk.inference.meter import Meter
from vidrisk.jobs.ledger import Row


@dataclass(frozen=True)
class Pace:
    """Attributes:
    files_per_s, clips_per_s: of this run alone.
    decoded, batched: frames that a decode process has waiting, and that wait for their batch to be full.
    bottleneck: the stage that the others have waited for longest.
    """

    files_per_s: float
    clips_per_s: float
    decoded: int
    batched: int
    bottleneck: str


@dataclass(frozen=True)
class Progress:
    """How far a run is, counted over the whole output folder, and how fast it goes. ``uncertain`` counts this run's predictions."""

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
