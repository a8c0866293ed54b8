"""Comparison of the generated reports of a run with the truth, a classifier's levels, and similar cases.

The files:

    OUT/comparison.json     scores, and reports and cases without a counterpart
    OUT/comparison.jsonl    every report beside the truth, in the order of predictions.jsonl
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vidrisk import __version__
from vidrisk.data.case_tables import DEFAULT_SCHEME, load_cases
from vidrisk.data.cases import Case, Cases, PhotoFile
from vidrisk.data.photo_records import record_from_photo
from vidrisk.data.scheme import Scheme
from vidrisk.data.scheme_file import load_scheme
from vidrisk.files.lines import json_from_value
from vidrisk.frames.media import name_of
from vidrisk.inference.neighbours import Neighbour
from vidrisk.jobs.compare_scores import ReportScores, ScoreCounter, text_fields
from vidrisk.jobs.compared import COMPARED, Compared, Lead
from vidrisk.jobs.folder import replace_file
from vidrisk.jobs.join_reports import Leads
from vidrisk.jobs.pair_reports import pair_reports, tables_of_cases
from vidrisk.jobs.report_rows import ReportRow, read_report_rows
from vidrisk.jobs.similar_cases import SimilarCases
from vidrisk.jobs.summary import read_summary
from vidrisk.metrics.texts import chrf, rouge_l
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.errors import DataError, SettingsError

COMPARISON = versions.COMPARISON.file
MAX_NAMED = 100


@dataclass(frozen=True)
class Unpaired:
    """Reports or cases without a counterpart.

    Attributes:
        total: their number.
        named: at most ``MAX_NAMED`` of them, by name, with the reason.
    """

    total: int
    named: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ReportComparison:
    """The result of one comparison.

    Attributes:
        scheme: as written by ``Scheme.to_json``.
        truth: what the reports were compared with; '' if no truth was given.
        cases: number of cases of the truth that have a report; some may have several reports.
        scores: of the reports that have a case, or of all if no truth was given.
        unpaired_reports: reports without a case in the truth.
        unpaired_cases: cases of the truth without a report.
        unseen: reports whose photo the classifier has not seen; 0 without a classifier.
        notes: what was assumed when the truth was read, and what was left out of it.
    """

    scheme: Mapping[str, Any]
    truth: str
    cases: int
    scores: ReportScores
    unpaired_reports: Unpaired
    unpaired_cases: Unpaired
    unseen: int
    notes: tuple[str, ...]
    vidrisk_version: str = __version__

    def to_json(self) -> str:
        """Return the content of ``comparison.json``."""
        return json_from_value(versions.COMPARISON.stamp(asdict(self)), indent=2)


def compare_run(
    out: str | os.PathLike[str],
    truth: Cases | str | Path | None,
    scheme: Scheme | str | Path | None = None,
    *,
    leads: Leads | None = None,
    similar: SimilarCases | None = None,
    tables: Sequence[Path] = (),
) -> ReportComparison:
    """Compare the reports of a finished run, and write the result into its folder.

    This may be repeated at any time. Reports and cases are matched by the id of the case, else by the name of the
    photo. A level that is missing, or that is part of an answer that could not be parsed, counts as wrong.

    Args:
        out: the output folder.
        truth: labelled cases, or a table of them; None compares with the classifier only.
        scheme: of the reports; None takes that of the truth.
        leads: a classifier's answers for the same photos.
        similar: returns the most similar labelled cases of each photo.
        tables: files that a truth of ``Cases`` was read from, if they are not in its root.

    Raises:
        DataError: no run, a damaged line, a truth or reports of another scheme, no case that has a report.
        SettingsError: neither truth nor leads, an unknown scheme.
    """
    if truth is None and leads is None:
        raise SettingsError("a comparison with nothing", allowed="a truth, the run of a classifier, or both")
    out = Path(out)
    read_summary(out)  # refuses a run that has not ended
    cases = truth if isinstance(truth, Cases) or truth is None else load_cases(truth, scheme)
    chosen = _scheme(cases, scheme)
    files = set() if cases is None else tables_of_cases(cases)
    files |= {Path(path).resolve() for path in (*tables, *((truth,) if isinstance(truth, str | Path) else ()))}
    pairing = pair_reports(
        [(row.path, row.case) for row in read_report_rows(out)], () if cases is None else cases.cases, files
    )
    if cases is not None and not any(place is not None for place in pairing.cases):
        first = f"; the first: {pairing.reasons[0]}" if pairing.reasons else ""
        counts = f"{len(pairing.cases)} reports, {len(cases)} cases"
        raise DataError(
            f"no report of {out} has a case in {cases.root.name}: {counts}{first}",
            fix="give the table that contains these photos, or the ids in the reports",
        )
    counter = ScoreCounter(chosen)
    unseen = 0
    with replace_file(out / COMPARED) as new, new.open("w", encoding="utf-8") as file:
        for row, place in zip(read_report_rows(out), pairing.cases, strict=True):
            _refuse_other_scheme(row, chosen, out)
            case = None if cases is None or place is None else cases.cases[place]
            photos = (*row.photos, *(case.photos if case else ()))
            seen_as = leads.path_of(row.path, photos) if leads else None
            lead = leads.by_path[seen_as] if leads and seen_as is not None else None
            first = next((str(photo.path) for photo in row.photos if isinstance(photo, PhotoFile)), row.path)
            neighbours = row.neighbours or (
                similar.of(seen_as or first, case.id if case else row.case) if similar else ()
            )
            report = compare_report(chosen, row, case, lead, neighbours)
            unseen += leads is not None and lead is None
            if case is not None or cases is None:
                counter.add(report, row.finish, row.answer_tokens)
            file.write(report.to_json() + "\n")
    comparison = ReportComparison(
        scheme=json.loads(chosen.to_json()),
        truth="" if cases is None else name_of(cases.root),
        cases=len(set(pairing.cases) - {None}),
        scores=counter.scores(),
        unpaired_reports=Unpaired(0, ()) if cases is None else _find_unpaired_reports(out, pairing.reasons),
        unpaired_cases=Unpaired(0, ())
        if cases is None
        else _list_unpaired_cases([cases.cases[place] for place in pairing.left]),
        unseen=unseen,
        notes=() if cases is None else cases.notes,
    )
    with replace_file(out / COMPARISON) as new:
        new.write_text(comparison.to_json() + "\n", encoding="utf-8")
    return comparison


def compare_report(
    scheme: Scheme, row: ReportRow, case: Case | None, lead: Lead | None = None, neighbours: Sequence[Neighbour] = ()
) -> Compared:
    """Combine one report with its case and with a classifier's answer."""
    name = scheme.level_fields[0].name
    counted = row.fields if row.parse_ok else {}
    level, truth = counted.get(name, ""), case.fields if case else None
    true_level = truth.get(name, "") if truth else ""
    texts = {
        each.name: (truth[each.name], counted.get(each.name, ""))
        for each in text_fields(scheme)
        if truth and truth.get(each.name)
    }
    own = row.photos or ((PhotoFile(Path(row.path), ""),) if case is None or Path(row.path).is_file() else case.photos)
    return Compared(
        path=row.path,
        case=case.id if case else row.case,
        parse_ok=row.parse_ok,
        problems=row.problems,
        text="" if row.parse_ok else row.text,
        fields={each.name: row.fields.get(each.name, "") for each in scheme.fields},
        truth=None if truth is None else {each.name: truth.get(each.name, "") for each in scheme.fields},
        confidence=_confidence(row, level),
        uncertain=row.uncertain,
        distance=_distance(scheme, true_level or (lead.level if lead and truth is None else ""), level),
        is_wrong=level != true_level if true_level else None,
        disagrees=(row.own_level or level) != lead.level if lead and level else None,
        rouge_l={field: rouge_l(*pair) for field, pair in texts.items()},
        chrf={field: chrf(*pair) for field, pair in texts.items()},
        lead=lead,
        neighbours=tuple(neighbours),
        photo=record_from_photo(own[0]) if own else {},
    )


def read_comparison(out: str | os.PathLike[str]) -> dict[str, Any]:
    """Read ``comparison.json``.

    Raises:
        DataError: there is no comparison, or it has another version.
    """
    path = Path(out) / COMPARISON
    try:
        return versions.COMPARISON.read_fields(json.loads(path.read_text(encoding="utf-8")), ReportComparison)
    except FileNotFoundError as error:
        raise DataError(f"{out} has no {COMPARISON}", fix="compare the run first") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}", fix="compare again") from error


def _scheme(cases: Cases | None, scheme: Scheme | str | Path | None) -> Scheme:
    wanted = scheme if isinstance(scheme, Scheme) or scheme is None else load_scheme(scheme)
    if cases is None:
        return wanted or load_scheme(DEFAULT_SCHEME)
    if wanted is None:
        return cases.scheme
    if (wanted.levels, wanted.fields) != (cases.scheme.levels, cases.scheme.fields):
        raise DataError(
            f"the truth in {cases.root.name} is of the scheme {cases.scheme.name}",
            allowed=wanted.name,
            fix="name the scheme that the data are written in",
        )
    return wanted


def _refuse_other_scheme(row: ReportRow, scheme: Scheme, out: Path) -> None:
    known = {each.name: each for each in scheme.fields}
    foreign = next((name for name in row.fields if name not in known), None)
    if foreign is not None:
        raise DataError(
            f"reports of {out} have the field {foreign!r}, which the scheme {scheme.name} does not have",
            allowed=", ".join(known),
            fix="name the scheme of the reports",
        )
    for name, text in row.fields.items():
        allowed = scheme.list_allowed_values(known[name])
        if text and allowed and text not in allowed:
            raise DataError(
                f"a report of {out} has {name} {text[:40]!r}, which the scheme {scheme.name} does not have",
                allowed=", ".join(filter(None, allowed)),
                fix="name the scheme of the reports",
            )


def _confidence(row: ReportRow, level: str) -> float | None:
    """Return the probability that the model gives the level of its report."""
    return next((scores[level] for scores in row.probabilities.values() if level in scores), None) if level else None


def _distance(scheme: Scheme, true: str, found: str) -> int | None:
    scale = [level.name for level in scheme.levels if level.severity is not None]
    return scale.index(found) - scale.index(true) if true in scale and found in scale else None


def _find_unpaired_reports(out: Path, reasons: Mapping[int, str]) -> Unpaired:
    def iterate_names() -> Iterator[tuple[str, str]]:
        for number, row in enumerate(read_report_rows(out)):
            if number in reasons:
                yield name_of(row.path), reasons[number]

    return Unpaired(len(reasons), tuple(pair for pair, _ in zip(iterate_names(), range(MAX_NAMED), strict=False)))


def _list_unpaired_cases(cases: Sequence[Case]) -> Unpaired:
    return Unpaired(len(cases), tuple((case.id, case.where) for case in cases[:MAX_NAMED]))
