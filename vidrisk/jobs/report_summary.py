"""``summary.json`` of a run of reports, with the same counts as for labels, over the levels written, if any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from vidrisk import __version__
from vidrisk.inference.meter import Meter
from vidrisk.inference.predictions import read_predictions
from vidrisk.inference.queries import Query
from vidrisk.inference.reporter import Reporter
from vidrisk.jobs.ledger import STATES, Ledger
from vidrisk.jobs.summary import Summary


def summarize_reports(
    reporter: Reporter,
    query: Query,
    ledger: Ledger,
    *,
    other_files: int,
    meter: Meter,
    wall_s: float,
    files: int,
    clips: int,
    settings: Mapping[str, Any],
) -> Summary:
    """Count the committed contents of an output folder.

    Args:
        reporter: the model.
        query: of the run.
        ledger: of the output folder.
        other_files: number of files that were left out.
        meter: with the seconds of each stage.
        wall_s: seconds that this run took.
        files: cases of this run alone.
        clips: answers of this run alone.
        settings: of the run.
    """
    targets, knows = query.targets, query.uncertainty
    states = Counter(row.state for row in ledger.rows())
    labels = {target.name: dict.fromkeys(target.labels, 0) for target in targets}
    severities: list[float] = []
    predictions = uncertain = 0
    for prediction in read_predictions(ledger.out):
        predictions += 1
        uncertain += bool(prediction.uncertain)
        for of_target in labels.values():
            if prediction.label in of_target:
                of_target[prediction.label] += 1
        if prediction.severity is not None:
            severities.append(prediction.severity)
    return Summary(
        task=reporter.contract.task,
        inputs=states.total(),
        states={s: states[s] for s in STATES if states[s]},
        other_files=other_files,
        predictions=predictions,
        labels=labels,
        uncertain=uncertain if knows.thresholds else None,
        mean_severity=round(sum(severities) / len(severities), 3) if severities else None,
        timings_s={"wall": round(wall_s, 3)} | {name: round(seconds, 3) for name, seconds in meter.seconds.items()},
        files_per_s=round(files / wall_s, 3),
        clips_per_s=round(clips / wall_s, 3),
        runtime=reporter.runtime,
        variant=reporter.variant,
        provenance=dict(reporter.provenance),
        targets=tuple(target.model_dump(mode="json") for target in targets),
        time=None,
        settings=dict(settings),
        vidrisk_version=__version__,
        started_at=ledger.meta["started_at"],
        finished_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        coverage=knows.coverage,
        no_threshold=dict(knows.reasons),
    )
