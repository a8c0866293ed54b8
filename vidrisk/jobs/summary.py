"""``summary.json``: what a run found, how long it took and what it was made with."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from vidrisk import __version__
from vidrisk.files.lines import json_from_value
from vidrisk.inference.meter import Meter
from vidrisk.inference.model import Classifier
from vidrisk.inference.predictions import read_predictions
from vidrisk.jobs.folder import replace_file
from vidrisk.jobs.ledger import STATES, Ledger
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.specs import TimeSpec

SUMMARY = versions.SUMMARY.file
OLD_RUN = "the run was made before bundles had thresholds"


def count_failed(states: Mapping[str, int]) -> int:
    """Count the inputs that did not end well: all states but ``ok``.

    Exit code 4 reports that there are any.
    """
    return sum(count for state, count in states.items() if state != "ok")


@dataclass(frozen=True)
class Summary:
    """Summary of a run. Counts cover the whole output folder, timings and rates the last run that wrote to it.

    Attributes:
        task: ``action``, ``risk`` or ``report``.
        inputs: rows of the ledger; ``states`` counts them per final state.
        predictions: lines of ``predictions.jsonl``; ``labels`` counts them per target and most probable label.
        uncertain: number of uncertain predictions; None if the model has no threshold.
        mean_severity: over all predictions; None if the contract has no severities.
        other_files: files in the given folders that are neither clips nor photos.
        timings_s: wall seconds, and seconds per stage (see ``Meter``).
        targets: labels and severities of the model, in order; empty for a question.
        time: moments and windows; None for photos.
        coverage: target of the thresholds, 0–1; None if there are none.
        no_threshold: reason per target without thresholds.
    """

    task: str
    inputs: int
    states: Mapping[str, int]
    other_files: int
    predictions: int
    uncertain: int | None
    labels: Mapping[str, Mapping[str, int]]
    mean_severity: float | None
    timings_s: Mapping[str, float]
    files_per_s: float
    clips_per_s: float
    runtime: str
    variant: str
    provenance: Mapping[str, str]
    targets: tuple[Mapping[str, Any], ...]
    time: Mapping[str, Any] | None
    settings: Mapping[str, Any]
    vidrisk_version: str
    started_at: str
    finished_at: str
    coverage: float | None = None
    no_threshold: Mapping[str, str] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The free-form question of the run; '' if labels or reports were written."""
        return self.settings.get("question") or ""

    @property
    def failed(self) -> int:
        """Number of inputs that failed entirely or in part."""
        return count_failed(self.states)

    @property
    def why_unknown(self) -> str:
        """Why targets have no threshold, by target if the reasons differ; empty if all have one."""
        reasons = set(self.no_threshold.values())
        if len(reasons) == 1 and len(self.no_threshold) == len(self.targets):
            return reasons.pop()
        return "; ".join(f"{target}: {reason}" for target, reason in self.no_threshold.items())

    def to_json(self) -> str:
        return json_from_value(versions.SUMMARY.stamp(asdict(self)), indent=2)


def summarize(
    classifier: Classifier,
    ledger: Ledger,
    *,
    other_files: int,
    meter: Meter,
    wall_s: float,
    files: int,
    clips: int,
    time_spec: TimeSpec | None,
    settings: Mapping[str, Any],
) -> Summary:
    """Count the committed contents of an output folder.

    ``files`` and ``clips`` are those of this run alone.
    """
    contract, knows = classifier.contract, classifier.uncertainty
    states = Counter(row.state for row in ledger.rows())
    labels = {target.name: dict.fromkeys(target.labels, 0) for target in contract.targets}
    severities: list[float] = []
    predictions = uncertain = 0
    for prediction in read_predictions(ledger.out):
        predictions += 1
        uncertain += bool(prediction.uncertain)
        for name, scores in prediction.targets.items():
            for label in prediction.labels.get(name, (max(scores, key=scores.__getitem__),)):
                labels[name][label] += 1
        if prediction.severity is not None:
            severities.append(prediction.severity)
    return Summary(
        task=contract.task,
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
        runtime=classifier.runtime,
        variant=classifier.variant,
        provenance=dict(classifier.provenance),
        targets=tuple(target.model_dump(mode="json") for target in contract.targets),
        time=asdict(time_spec) if time_spec else None,
        settings=dict(settings),
        vidrisk_version=__version__,
        started_at=ledger.meta["started_at"],
        finished_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        coverage=knows.coverage,
        no_threshold=dict(knows.reasons),
    )


def write_summary(summary: Summary, out: Path) -> None:
    """Write ``summary.json`` completely or not at all.

    Raises:
        VidriskError: the folder cannot be written.
    """
    with replace_file(out / SUMMARY) as new:
        new.write_text(summary.to_json() + "\n", encoding="utf-8")


def read_summary(out: str | os.PathLike[str]) -> Summary:
    """Read ``summary.json``.

    Raises:
        DataError: no summary there (the run has not ended), or one of another version.
    """
    path = Path(out) / SUMMARY
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "no_threshold" not in content:  # written before bundles had thresholds: its 0 means nothing
            content |= {"uncertain": None, "no_threshold": {target["name"]: OLD_RUN for target in content["targets"]}}
        values = versions.SUMMARY.read_fields(content, Summary)
        if values["time"] is not None:  # the names in other mappings are data, or unknown ones are ignored
            values["time"] = versions.SUMMARY.read_fields(
                {**values["time"], versions.VERSION: content.get(versions.VERSION)}, TimeSpec
            )
        return Summary(**values)
    except FileNotFoundError as error:
        raise DataError(f"{out} has no {SUMMARY}: its run did not end", fix="run it again with resume") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is not a summary of this version: {error}", fix="run it again with resume") from error
