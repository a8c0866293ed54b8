"""One report compared with the truth, a classifier's answer and similar cases: a line of ``comparison.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vidrisk.files.lines import json_from_value
from vidrisk.files.paths import path_from_stored, stored_from_path
from vidrisk.inference.neighbours import Neighbour
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.errors import DataError

COMPARED = versions.COMPARED.file


@dataclass(frozen=True)
class Lead:
    """A classifier's answer for the same photo. Its level takes precedence because it is calibrated.

    Attributes:
        level: by the scheme's name, or as the classifier writes it if the scheme has no such level.
        score: its calibrated probability.
        uncertain: whether it is; None if the classifier has no threshold.
        defect: the most probable one; '' if the classifier knows none.
        risk, advice, description: guidance from the labelled data.
    """

    level: str
    score: float
    uncertain: bool | None = None
    defect: str = ""
    risk: str = ""
    advice: str = ""
    description: str = ""


@dataclass(frozen=True)
class Compared:
    """One report.

    Attributes:
        path: of the input.
        case: id of its case; '' if unknown.
        parse_ok, problems, text: of the answer, see ``report_rows.ReportRow``; the text is kept only if ``parse_ok`` is
            false.
        fields: content of the report, by field; of an answer that could not be parsed whatever there is, which is not
            scored.
        truth: known values, by field; None if the report has no case in the truth.
        confidence: probability that the model gives its level; None if it gives none.
        uncertain: whether the level is; None if there is no threshold.
        distance: levels between the report's level and the true one, or the classifier's if there is no truth; negative
            if the report's is lower. None if either is missing or off the scale.
        is_wrong: whether the level differs from the true one; None if that is not known.
        disagrees: whether the level differs from the classifier's; None without a classifier, or without a level.
        rouge_l, chrf: per text field whose true value is known.
        lead: a classifier's answer; None without one.
        neighbours: the most similar labelled cases.
        photo: that represents it, see ``photo_records.record_from_photo``; empty if there is none.
    """

    path: str
    case: str
    parse_ok: bool
    problems: tuple[str, ...]
    text: str
    fields: Mapping[str, str]
    truth: Mapping[str, str] | None
    confidence: float | None
    uncertain: bool | None
    distance: int | None
    is_wrong: bool | None
    disagrees: bool | None
    rouge_l: Mapping[str, float] = field(default_factory=dict)
    chrf: Mapping[str, float] = field(default_factory=dict)
    lead: Lead | None = None
    neighbours: tuple[Neighbour, ...] = ()
    photo: Mapping[str, Any] = field(default_factory=dict)

    @property
    def counted(self) -> Mapping[str, str]:
        """The fields that are scored: none if the answer could not be parsed."""
        return self.fields if self.parse_ok else {}

    def to_json(self) -> str:
        """Return one line of JSON."""
        record = asdict(self) | {
            "path": stored_from_path(self.path),
            "neighbours": [each.to_dict() for each in self.neighbours],
        }
        return json_from_value(versions.COMPARED.stamp(record))


def comparison_from_json(line: str) -> Compared:
    """Parse a line of ``Compared.to_json``.

    Raises:
        DataError: it is not such a line.
    """
    try:
        values = versions.COMPARED.read_fields(json.loads(line), Compared)
        return Compared(
            **(
                values
                | {
                    "path": path_from_stored(values["path"]),
                    "problems": tuple(values["problems"]),
                    "lead": values.get("lead") and Lead(**values["lead"]),
                    "neighbours": tuple(_neighbour(each) for each in values.get("neighbours", ())),
                }
            )
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"a line of {COMPARED} is damaged: {error}", fix="compare again") from error


def read_compared(out: Path) -> Iterator[Compared]:
    """Stream the compared reports.

    Raises:
        DataError: a damaged line.
    """
    with (out / COMPARED).open(encoding="utf-8") as file:
        yield from map(comparison_from_json, file)


def _neighbour(values: Mapping[str, Any]) -> Neighbour:
    return Neighbour(**{**values, "path": path_from_stored(values["path"])})
