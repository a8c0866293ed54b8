"""One prediction: what the model says about one clip, or about one window of a longer one. One line of JSON each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.files.cache import key_of
from vidrisk.files.lines import DIGITS, line_from_record, record_from_line
from vidrisk.inference.risk import guidance_for, severity_from_probabilities
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.contract import NONE_HOLDS, Contract
from vidrisk.runtimes.uncertainty import Uncertainty, is_uncertain

PREDICTIONS = versions.PREDICTIONS.file


@dataclass(frozen=True)
class Prediction:
    """The model's answer for one input or one window of it.

    Attributes:
        path: absolute path of the input.
        start_s, end_s: the half-open interval that was looked at; None for a photo.
        label, score: most probable label of the first target, and its probability. Where any number of its labels may hold and none
            does, ``none`` and the probability that the most probable one does not.
        uncertain: any target's answer is, see ``runtimes.uncertainty``; None where the model has no threshold.
        severity: expected severity, 0–100; None where the contract has none.
        level, defect: most probable labels of the targets of these names.
        targets: per target the probability of every label. Of a multi-label target they do not sum to 1.
        risk, advice, description: what the training data says about such inputs.
        state: ``ok``, or ``partial`` when a part of the input could not be read.
        candidates: per target that has thresholds the labels that cannot be excluded, most probable first. Lines of before lack it.
        id: of what was looked at by which model: from the content of the file, the window and the contract, not from the path.
            Empty where the decode process was lost after some windows (such files are opened nowhere else), and in lines of before.
        reason: why the state is not ``ok``, or what there is to say all the same.
        report: of a bundle that writes reports: ``case``, ``fields`` by name, ``parse_ok``, ``problems``, ``text``, ``finish``,
            ``prompt_tokens``, ``answer_tokens``, ``photos`` of the case (``data.photo_records``; lines of before lack them). The
            label is the level that is written, '' where the answer does not parse; targets are empty where the engine does not tell
            how likely levels are. Where a ``question`` was asked in free words, it is there, too, and neither fields nor a label.
        labels: per multi-label target the labels that hold, most probable first. Lines of before lack it.
    """

    path: str
    start_s: float | None
    end_s: float | None
    label: str
    score: float
    uncertain: bool | None
    severity: float | None
    level: str | None
    defect: str | None
    targets: Mapping[str, Mapping[str, float]]
    risk: str = ""
    advice: str = ""
    description: str = ""
    state: str = "ok"
    candidates: Mapping[str, Sequence[str]] = field(default_factory=dict)
    id: str = ""
    reason: str = ""
    report: Mapping[str, Any] | None = None
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """One line of UTF-8: see ``lines.line_from_record``."""
        return line_from_record(self, versions.PREDICTIONS)


def prediction_from_probabilities(contract: Contract, path: str, interval_s: tuple[float | None, float | None],
                                  probabilities: Mapping[str, npt.NDArray[np.float32]],
                                  uncertainty: Uncertainty | None = None, state: str = "ok", *, reason: str = "",
                                  content: str = "", decision: Mapping[str, Mapping[str, float]] | None = None) -> Prediction:
    """Read one row of the head's output.

    Args:
        contract: names the targets and their labels.
        path: the input.
        interval_s: start and end of the clip or window.
        probabilities: per target ``(labels,)``, summing to 1 unless it is multi-label.
        uncertainty: of the model.
        state, reason: of the input.
        content: sha256 of the input; empty where it is not known, and then there is no id.
        decision: per multi-label target and label the probability from which on the label holds.
    """
    targets = {t.name: dict(zip(t.labels, map(float, probabilities[t.name]), strict=True)) for t in contract.targets}
    holding = {name: labels_that_hold(targets[name], thresholds) for name, thresholds in (decision or {}).items()}
    best = {name: next(iter(holding[name]), NONE_HOLDS) if name in holding else max(scores, key=scores.__getitem__)
            for name, scores in targets.items()}
    first = contract.targets[0].name
    none_holds = first in holding and not holding[first]
    score = 1 - max(targets[first].values()) if none_holds else targets[first][best[first]]
    candidates = uncertainty.candidates(contract.targets, probabilities) if uncertainty else {}
    guidance = guidance_for(contract.guidance, defect=best.get("defect"), level=best.get("level"))
    return Prediction(
        path=path, start_s=interval_s[0], end_s=interval_s[1], label=best[first], score=score,
        uncertain=is_uncertain(candidates, best), severity=severity_from_probabilities(contract.targets, probabilities),
        level=best.get("level"), defect=best.get("defect"), targets=targets,
        risk=guidance.risk, advice=guidance.advice, description=guidance.description, state=state,
        candidates=candidates, id=id_from_content(content, interval_s, contract) if content else "", reason=reason, labels=holding)


def labels_that_hold(scores: Mapping[str, float], thresholds: Mapping[str, float]) -> list[str]:
    """Name the labels whose probability reaches their threshold, most probable first."""
    return sorted((label for label, score in scores.items() if score >= thresholds[label]), key=lambda label: -scores[label])


def id_from_content(content: str, interval_s: tuple[float | None, float | None], contract: Contract) -> str:
    """Return 32 hex digits that name what was looked at, and what the model was asked: equal wherever the file lies."""
    window = [None if moment is None else round(moment, DIGITS) for moment in interval_s]
    return key_of("prediction", content, json.dumps(window), contract.digest)[:32]


def prediction_from_json(line: str | bytes) -> Prediction:
    """The inverse of ``Prediction.to_json``, up to the rounding.

    Raises:
        DataError: not a line that ``to_json`` wrote.
    """
    prediction = record_from_line(Prediction, line, versions.PREDICTIONS)
    # Without candidates there was no threshold; before there were any, such lines said false.
    return prediction if prediction.candidates else replace(prediction, uncertain=None)


def read_predictions(out: str | os.PathLike[str]) -> Iterator[Prediction]:
    """Stream the predictions of an output folder.

    Raises:
        DataError: a line is not one of ours.
    """
    with (Path(out) / PREDICTIONS).open("rb") as file:
        yield from map(prediction_from_json, file)
