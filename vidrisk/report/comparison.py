"""Build ``comparison.html``: the reports of a run beside the truth, worst first; one file without network or script."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from vidrisk.decode.pool import DecodePool, default_workers
from vidrisk.decode.thumbnails import Thumbnail
from vidrisk.files.paths import stored_from_path
from vidrisk.frames.media import name_of
from vidrisk.inference.neighbours import Neighbour
from vidrisk.jobs.case_pictures import CasePicture, read_pictures
from vidrisk.jobs.compare_reports import read_comparison
from vidrisk.jobs.compared import Compared, read_compared
from vidrisk.jobs.folder import replace_file
from vidrisk.jobs.kept_thumbnails import read_kept_thumbnails
from vidrisk.jobs.ledger import read_ledger
from vidrisk.jobs.summary import read_summary
from vidrisk.report.build import lang_of, moment_text, percent_text
from vidrisk.report.differences import MAX_SHOWN_CHARS, Sides, mark_differences
from vidrisk.report.results import band_from_severity, common_folder
from vidrisk.runtimes.html import page_environment

PAGE = "comparison.html"
TEMPLATE, CASE_TEMPLATE = "comparison.html.j2", "comparison_case.html.j2"
MAX_CASES = 200
MAX_PAGE_BYTES = 5_000_000
MAX_PICTURE_BYTES = 30_000  # of a kept thumbnail, before base64
SIDE_PX, SMALL_PX = 240, 120  # for pictures of reports, and of similar cases
MAX_NEIGHBOURS = 3
Picture = Thumbnail | CasePicture
KINDS = ("wrong", "unparsed", "differs", "unsure", "alone")


@dataclass(frozen=True)
class FieldRow:
    """One field of a report beside the truth.

    ``sides`` is None if the true value is not known, or there is nothing to compare.
    """

    label: str
    is_text: bool
    found: str
    truth: str | None
    is_wrong: bool
    sides: Sides | None
    rouge_l: float | None


@dataclass(frozen=True)
class SimilarCase:
    """A labelled case similar to that of a report, with its photo if it can be read."""

    neighbour: Neighbour
    level: str
    texts: tuple[tuple[str, str], ...]
    picture: Picture | None


@dataclass(frozen=True)
class CaseCard:
    """One report as shown on the page."""

    name: str
    report: Compared
    level: str
    true_level: str
    rows: tuple[FieldRow, ...]
    picture: Picture | None
    similar: tuple[SimilarCase, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds that the page can be filtered by."""
        report = self.report
        found = {
            "wrong": report.is_wrong,
            "unparsed": not report.parse_ok,
            "differs": report.disagrees,
            "unsure": report.uncertain,
            "alone": report.truth is None,
        }
        return tuple(kind for kind, is_so in found.items() if is_so)


def build_comparison(out: str | os.PathLike[str], pool: DecodePool | None = None) -> Path:
    """Write ``comparison.html`` into the output folder of a run that was compared.

    May be repeated at any time. At most ``MAX_CASES`` reports are shown, as many as fit in ``MAX_PAGE_BYTES``; the
    others are counted.

    Args:
        out: output folder of the run.
        pool: decodes photos of which the run kept no thumbnail; None creates one if it is needed.

    Raises:
        DataError: the run has not finished, was not compared, or its files are of another version.
        RuntimeFailure: decode processes cannot be started.
        VidriskError: the folder holds no run, or cannot be written.
    """
    out = Path(out)
    summary, comparison = read_summary(out), read_comparison(out)
    names = _Names(comparison["scheme"])
    worst = heapq.nsmallest(MAX_CASES, read_compared(out), key=lambda report: _urgency(report, names.level))
    total = sum(1 for _ in read_compared(out))
    environment = _environment(names)
    shown: list[Markup] = []
    kinds, spent = dict.fromkeys(KINDS, 0), 0
    for card in _cards(worst, names, out, int(summary.settings["max_memory_mb"]), pool):
        text = environment.get_template(CASE_TEMPLATE).render(card=card, compared=bool(comparison["truth"]))
        spent += len(text.encode("utf-8", "replace"))
        if spent > MAX_PAGE_BYTES and shown:
            break
        shown.append(Markup(text))  # escaped by its own template
        for kind in card.kinds:
            kinds[kind] += 1
    page = environment.get_template(TEMPLATE).render(
        summary=summary, c=comparison, s=comparison["scores"], names=names, cards=shown, kinds=kinds, total=total
    )
    with replace_file(out / PAGE) as new:
        new.write_text(page, encoding="utf-8", errors="replace")
    return out / PAGE


class _Names:
    """Labels of fields and levels, from a scheme as stored in ``comparison.json``."""

    def __init__(self, scheme: Mapping[str, Any]) -> None:
        self.scheme = str(scheme["name"])
        self.fields = {field["name"]: (field["label"], field.get("kind", "text")) for field in scheme["fields"]}
        self.level = next(name for name, (_, kind) in self.fields.items() if kind == "level")
        self.bands = {
            level["name"]: "" if level.get("severity") is None else band_from_severity(level["severity"])
            for level in scheme["levels"]
        }

    def label(self, field: str) -> str:
        return str(self.fields[field][0])


def _urgency(report: Compared, level: str) -> tuple[float, int, float, str]:
    """Return a sort key: reports without a level first, then by how far the level is off.

    At equal distance, levels that are too low come first; after that, reports are sorted by the overlap of their texts.
    """
    if not report.counted.get(level):
        mistake = float("inf")
    elif report.is_wrong or (report.is_wrong is None and report.disagrees):
        mistake = float(max(abs(report.distance or 0), 1))
    else:
        mistake = 0.5 if report.disagrees else 0.0
    overlap = sum(report.rouge_l.values()) / len(report.rouge_l) if report.rouge_l else 1.0
    return (-mistake, 0 if (report.distance or 0) < 0 else 1, overlap, report.path)


def _cards(
    reports: Sequence[Compared], names: _Names, out: Path, max_memory_mb: int, pool: DecodePool | None
) -> Iterator[CaseCard]:
    pictures = _pictures(reports, out, max_memory_mb, pool)
    root = common_folder([report.path for report in reports])
    for report in reports:
        similar = tuple(
            SimilarCase(
                each,
                each.fields.get(names.level, ""),
                tuple(
                    (names.label(name), text[:MAX_SHOWN_CHARS])
                    for name, text in each.fields.items()
                    if name in names.fields and names.fields[name][1] == "text"
                ),
                pictures.get((each.path, SMALL_PX)),
            )
            for each in report.neighbours[:MAX_NEIGHBOURS]
        )
        yield CaseCard(
            name_of(os.path.relpath(report.path, root)),
            report,
            report.counted.get(names.level, ""),
            (report.truth or {}).get(names.level, ""),
            tuple(_rows(report, names)),
            pictures.get((report.path, SIDE_PX)),
            similar,
        )


def _pictures(
    reports: Sequence[Compared], out: Path, max_memory_mb: int, pool: DecodePool | None
) -> dict[tuple[str, int], Picture]:
    """Return pictures by the path of the report or similar case and by their side.

    Kept thumbnails are used if there are any; the others are read from the sources.
    """
    shown = {report.path for report in reports}
    kept = read_kept_thumbnails(out, [row for row in read_ledger(out) if row.path in shown])
    found: dict[tuple[str, int], Picture] = {
        (path, SIDE_PX): thumbnails[0]
        for path, thumbnails in kept.items()
        if thumbnails and thumbnails[0].bytes <= MAX_PICTURE_BYTES
    }
    wanted = {(report.path, SIDE_PX): report.photo for report in reports if report.photo}
    wanted |= {
        (each.path, SMALL_PX): {"path": stored_from_path(each.path)}
        for report in reports
        for each in report.neighbours[:MAX_NEIGHBOURS]
        if each.path
    }
    missing = {key: photo for key, photo in wanted.items() if key not in found}
    with (
        (nullcontext(pool) if pool else DecodePool(min(default_workers(), len(missing))))
        if missing
        else nullcontext() as opened
    ):
        for side_px in (SIDE_PX, SMALL_PX):
            keys = [key for key in missing if key[1] == side_px]
            if opened is not None and keys:
                read = read_pictures([missing[key] for key in keys], opened, side_px, max_memory_mb)
                found |= {key: picture for key, picture in zip(keys, read, strict=True) if picture}
    return found


def _rows(report: Compared, names: _Names) -> Iterator[FieldRow]:
    for name, (label, kind) in names.fields.items():
        found, truth = report.fields.get(name, ""), None if report.truth is None else report.truth.get(name, "")
        if not found and not truth:
            continue
        sides = mark_differences(truth or "", found) if kind == "text" and truth else None
        is_wrong = bool(truth) and truth != found
        yield FieldRow(label, kind == "text", found[:MAX_SHOWN_CHARS], truth, is_wrong, sides, report.rouge_l.get(name))


def _environment(names: _Names) -> jinja2.Environment:
    environment = page_environment(Path(__file__).parent)
    environment.filters |= {
        "percent": percent_text,
        "lang": lang_of,
        "moment": moment_text,
        "count": "{:,}".format,
        "cut": lambda text: text[:MAX_SHOWN_CHARS],
        "band": lambda level: names.bands.get(level, ""),
    }
    return environment
