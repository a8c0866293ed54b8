"""``summary.json``: what a run found, how long it took and what it was made with."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from vidrisk import __version__
from vidrisk.infer.classifier import Classifier
from vidrisk.infer.folder import replacing
from vidrisk.infer.ledger import READ_STATES, STATES, Ledger
from vidrisk.infer.predictions import read_predictions
from vidrisk.runtimes.errors import DataError
from vidrisk.runtimes.specs import TimeSpec

SUMMARY = "summary.json"
STAGES = ("decode", "encode", "waiting for decode", "waiting for encode", "head", "write")


@dataclass
class Meter:
    """What a run has done so far: seconds per stage, and counts.

    Seconds of ``decode`` add up over processes, so they may exceed the wall time; ``encode`` runs beside the rest,
    which tells in ``waiting for …`` how long it had nothing else to do.

    Attributes:
        decoded: messages of a decode process that have come and were not taken yet, most of them frames.
        batched: frames that wait for their batch to be full.
        windows: predicted.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    decoded: int = 0
    batched: int = 0
    windows: int = 0

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] += seconds

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started_s)


@dataclass(frozen=True)
class Summary:
    """Counts are over the whole output folder; timings and rates over the last run that wrote into it.

    Attributes:
        task: ``action`` or ``risk``.
        inputs: rows of the ledger; ``states`` counts them per final state.
        predictions: lines of ``predictions.jsonl``; ``labels`` counts them per target and most probable label.
        mean_severity: over all predictions; None where the contract has no severities.
        other_files: files in the given folders that are neither clips nor photos.
        timings_s: wall seconds, and seconds per stage (see ``Meter``).
        targets: labels and severities of the model, in order.
        time: moments and windows; None for photos.
    """

    task: str
    inputs: int
    states: Mapping[str, int]
    other_files: int
    predictions: int
    uncertain: int
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

    @property
    def failed(self) -> int:
        """Inputs of which nothing could be predicted."""
        return sum(count for state, count in self.states.items() if state not in READ_STATES)

    def to_json(self) -> str:
        text = json.dumps(asdict(self), ensure_ascii=False, indent=2)
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def summarize(classifier: Classifier, ledger: Ledger, *, other_files: int, meter: Meter, wall_s: float,
              files: int, clips: int, time_spec: TimeSpec | None, settings: Mapping[str, Any]) -> Summary:
    """Count the committed contents of an output folder. ``files`` and ``clips`` are those of this run alone."""
    contract = classifier.contract
    states = Counter(row.state for row in ledger.rows())
    labels = {target.name: dict.fromkeys(target.labels, 0) for target in contract.targets}
    severities: list[float] = []
    predictions = uncertain = 0
    for prediction in read_predictions(ledger.out):
        predictions += 1
        uncertain += prediction.uncertain
        for name, scores in prediction.targets.items():
            labels[name][max(scores, key=scores.__getitem__)] += 1
        if prediction.severity is not None:
            severities.append(prediction.severity)
    return Summary(
        task=contract.task, inputs=states.total(), states={s: states[s] for s in STATES if states[s]},
        other_files=other_files, predictions=predictions, uncertain=uncertain, labels=labels,
        mean_severity=round(sum(severities) / len(severities), 3) if severities else None,
        timings_s={"wall": round(wall_s, 3)} | {name: round(seconds, 3) for name, seconds in meter.seconds.items()},
        files_per_s=round(files / wall_s, 3), clips_per_s=round(clips / wall_s, 3),
        runtime=classifier.runtime, variant=classifier.variant, provenance=dict(classifier.provenance),
        targets=tuple(target.model_dump(mode="json") for target in contract.targets),
        time=asdict(time_spec) if time_spec else None, settings=dict(settings), vidrisk_version=__version__,
        started_at=ledger.meta["started_at"], finished_at=datetime.now(timezone.utc).isoformat(timespec="seconds"))


def write_summary(summary: Summary, out: Path) -> None:
    """Write ``summary.json`` whole or not at all.

    Raises:
        VidriskError: the folder cannot be written.
    """
    with replacing(out / SUMMARY) as new:
        new.write_text(summary.to_json() + "\n", encoding="utf-8")


def read_summary(out: str | os.PathLike[str]) -> Summary:
    """Raises:
    DataError: no summary there (the run has not ended), or one of another version.
    """
    path = Path(out) / SUMMARY
    try:
        return Summary(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise DataError(f"{out} has no {SUMMARY}: its run did not end", fix="resume it with --resume") from error
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} is no summary of this version: {error}", fix="resume the run with --resume") from error
