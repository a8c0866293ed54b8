"""Lines of ``predictions.jsonl`` with generated reports."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from vidrisk.data.cases import PhotoSource
from vidrisk.data.photo_records import photo_from_record
from vidrisk.files.paths import path_from_stored
from vidrisk.inference.neighbours import Neighbour
from vidrisk.inference.predictions import PREDICTIONS, Prediction
from vidrisk.jobs.folder import refuse_folders_without
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.errors import DataError

REPORT = "report"
MOST_NEIGHBOURS = 10


@dataclass(frozen=True)
class ReportRow:
    """A generated report.

    Attributes:
        path: absolute path of the input.
        case: id of its case; '' if unknown.
        fields: values by the scheme's field names; '' if there is no allowed value.
        parse_ok: whether the answer could be parsed as the scheme requires.
        problems: what was wrong with it.
        text: the answer as it was written.
        finish: why it ended.
        prompt_tokens, answer_tokens: their numbers.
        probabilities: per target, of every label.
        uncertain: whether the level is; None if there is no threshold.
        neighbours: the most similar labelled cases.
        photos: of the case; also empty in lines of earlier versions.
        own_level: the level that the model itself finds most likely, if its text was written under a classifier's
            level; else ''.
    """

    path: str
    case: str
    fields: Mapping[str, str]
    parse_ok: bool
    problems: tuple[str, ...] = ()
    text: str = ""
    finish: str = ""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    probabilities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    uncertain: bool | None = None
    neighbours: tuple[Neighbour, ...] = ()
    photos: tuple[PhotoSource, ...] = ()
    own_level: str = ""


def read_report_rows(out: str | os.PathLike[str]) -> Iterator[ReportRow]:
    """Stream the reports of an output folder.

    Raises:
        DataError: no run there, a run of a model that writes no reports, or a damaged line, which is named.
    """
    path = Path(out) / PREDICTIONS
    refuse_folders_without(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield report_row_from_line(line, f"{path}, line {number}")


def report_row_from_line(line: bytes, where: str) -> ReportRow:
    """Parse a line.

    Raises:
        DataError: it is damaged, or not a report but, for example, the answer to a question; ``where`` is named.
    """
    known = [each.name for each in fields(Prediction)]
    try:
        record = json.loads(line)
        values = versions.PREDICTIONS.read(record, {*known, REPORT}, ("path", "targets", "uncertain"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}", fix="resume the run") from error
    except DataError as error:
        raise DataError(f"{where}: {error.what}", allowed=error.allowed, fix=error.fix) from error
    report = values.get(REPORT)
    if not report:
        raise DataError(f"{where} holds no report", fix="compare the run of a model that writes reports")
    if isinstance(report, Mapping) and report.get("question"):
        raise DataError(f"{where} holds the answer to a question, not a report", fix="compare a run without a question")
    try:
        return _row(values, report)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where} holds a damaged report: {error!r}", fix="resume the run") from error


def _row(values: Mapping[str, Any], report: Mapping[str, Any]) -> ReportRow:
    return ReportRow(
        path=path_from_stored(values["path"]),
        case=_text(report.get("case", "")),
        fields={_text(name): _text(value) for name, value in report["fields"].items()},
        parse_ok=_flag(report["parse_ok"]),
        problems=tuple(map(_text, report.get("problems", ()))),
        text=_text(report.get("text", "")),
        finish=_text(report.get("finish", "")),
        prompt_tokens=int(report.get("prompt_tokens", 0)),
        answer_tokens=int(report.get("answer_tokens", 0)),
        probabilities={
            _text(target): {_text(label): float(value) for label, value in scores.items()}
            for target, scores in values["targets"].items()
        },
        uncertain=None if values["uncertain"] is None else _flag(values["uncertain"]),
        neighbours=tuple(map(_neighbour, report.get("neighbours", ())[:MOST_NEIGHBOURS])),
        photos=tuple(map(photo_from_record, report.get("photos", ()))),
        own_level=_text(report.get("own_level", "")),
    )


def _neighbour(value: Mapping[str, Any]) -> Neighbour:
    return Neighbour(
        _text(value["case"]),
        _text(value["photo"]),
        path_from_stored(_text(value.get("path", ""))),
        {_text(name): _text(text) for name, text in value["fields"].items()},
        float(value["similarity"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} is not a text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{str(value)[:40]!r} is neither true nor false")
    return value
