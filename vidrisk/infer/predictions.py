"""One prediction: what the model says about one clip, or about one window of a longer one. One line of JSON each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidrisk.infer.lines import line_from_record, record_from_line
from vidrisk.risk import guidance_for, severity_from_probabilities
from vidrisk.runtimes.contract import Contract

PREDICTIONS = "predictions.jsonl"


@dataclass(frozen=True)
class Prediction:
    """Attributes:
    path: absolute path of the input.
    start_s, end_s: the half-open interval that was looked at; None for a photo.
    label, score: most probable label of the first target, and its probability.
    uncertain: the score is under the threshold that the bundle sets.
    severity: expected severity, 0–100; None where the contract has none.
    level, defect: most probable labels of the targets of these names.
    targets: per target the probability of every label.
    risk, advice, description: what the training data says about such inputs.
    state: ``ok``, or ``partial`` when a part of the input could not be read.
    """

    path: str
    start_s: float | None
    end_s: float | None
    label: str
    score: float
    uncertain: bool
    severity: float | None
    level: str | None
    defect: str | None
    targets: Mapping[str, Mapping[str, float]]
    risk: str = ""
    advice: str = ""
    description: str = ""
    state: str = "ok"

    def to_json(self) -> bytes:
        """One line of UTF-8: see ``lines.line_from_record``."""
        return line_from_record(self)


def prediction_from_probabilities(contract: Contract, path: str, interval_s: tuple[float | None, float | None],
                                  probabilities: Mapping[str, npt.NDArray[np.float32]],
                                  threshold: float = 0.0, state: str = "ok") -> Prediction:
    """Read one row of the head's output.

    Args:
        contract: names the targets and their labels.
        path: the input.
        interval_s: start and end of the clip or window.
        probabilities: per target ``(labels,)``, summing to 1.
        threshold: score of the first target below which the prediction is uncertain.
        state: of the input.
    """
    targets = {t.name: dict(zip(t.labels, map(float, probabilities[t.name]), strict=True)) for t in contract.targets}
    best = {name: max(scores, key=scores.__getitem__) for name, scores in targets.items()}
    first = contract.targets[0].name
    score = targets[first][best[first]]
    guidance = guidance_for(contract.guidance, defect=best.get("defect"), level=best.get("level"))
    return Prediction(
        path=path, start_s=interval_s[0], end_s=interval_s[1], label=best[first], score=score,
        uncertain=score < threshold, severity=severity_from_probabilities(contract.targets, probabilities),
        level=best.get("level"), defect=best.get("defect"), targets=targets,
        risk=guidance.risk, advice=guidance.advice, description=guidance.description, state=state)


def prediction_from_json(line: str | bytes) -> Prediction:
    """The inverse of ``Prediction.to_json``, up to the rounding.

    Raises:
        DataError: not a line that ``to_json`` wrote.
    """
    return record_from_line(Prediction, line, PREDICTIONS)


def read_predictions(out: str | os.PathLike[str]) -> Iterator[Prediction]:
    """Stream the predictions of an output folder.

    Raises:
        DataError: a line is not one of ours.
    """
    with (Path(out) / PREDICTIONS).open("rb") as file:
        yield from map(prediction_from_json, file)
