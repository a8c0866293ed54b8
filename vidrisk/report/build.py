"""Build ``report.html`` from an output folder alone: one file, no network, readable without scripts."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path

import jinja2
import numpy as np

from vidrisk.decode.messages import READ_STATES, ThumbnailInput, ThumbnailSettings
from vidrisk.decode.pool import DecodePool, default_workers
from vidrisk.decode.thumbnails import Thumbnail
from vidrisk.frames.media import name_of
from vidrisk.frames.sampling import moments_from_window
from vidrisk.inference.predictions import Prediction
from vidrisk.jobs.case_pictures import CasePicture, Record, path_of_record, read_bounded_pictures
from vidrisk.jobs.folder import replace_file
from vidrisk.jobs.kept_thumbnails import budget_from_cards, read_kept_thumbnails, thumbnails_at_moments
from vidrisk.jobs.ledger import read_ledger
from vidrisk.report.results import InputResult, Results, band_from_severity, common_folder, read_results
from vidrisk.report.timeline import BAR_UNITS, Timeline, read_timelines
from vidrisk.runtimes.contract.specs import TimeSpec
from vidrisk.runtimes.html import page_environment
from vidrisk.runtimes.uncertainty import doubtful_targets

REPORT = "report.html"
TEMPLATE = "report.html.j2"
Picture = Thumbnail | CasePicture


@dataclass(frozen=True)
class Card:
    """One input as shown in the gallery.

    Attributes:
        thumbnails: of its moments, or of its first photos.
        peaks: one picture per peak of the timeline; empty without a timeline.
        photos: number of photos of the input; None for a clip, and for runs made before photos were recorded.
    """

    name: str
    result: InputResult
    band: str | None
    thumbnails: tuple[Picture, ...]
    timeline: Timeline | None
    peaks: tuple[Picture, ...]
    photos: int | None


def build_report(out: str | os.PathLike[str], pool: DecodePool | None = None) -> Path:
    """Write ``report.html`` into the output folder of a finished run.

    May be repeated at any time. Thumbnails are those that the run kept. The others are read from the sources by
    processes with the same memory limit as the run's decode processes. An input without a kept thumbnail gets a
    placeholder if its source can no longer be read or crashes the decoder.

    Args:
        out: output folder of the run.
        pool: decode pool to use; None creates one if it is needed.

    Raises:
        DataError: the run has not finished, or its files are of another version.
        RuntimeFailure: the decode processes cannot be started.
        VidriskError: the folder holds no run, or cannot be written.
    """
    out = Path(out)
    results = read_results(out)
    root = common_folder([*(r.prediction.path for r in results.gallery), *(row.path for row in results.failures)])
    page = (
        _environment()
        .get_template(TEMPLATE)
        .render(
            results=results,
            summary=results.summary,
            cards=_cards(results, out, root, pool),
            root=name_of(root),
            bar_units=BAR_UNITS,
            failures=[(_name(row.path, root), row) for row in results.failures],
            read_states=READ_STATES,
            level_bands={level.label: level.band for level in results.levels},
        )
    )
    with replace_file(out / REPORT) as new:
        new.write_text(page, encoding="utf-8", errors="replace")
    return out / REPORT


def _cards(results: Results, out: Path, root: Path, pool: DecodePool | None) -> list[Card]:
    timelines = read_timelines(out, results)
    budget = budget_from_cards(len(results.gallery), has_timelines=bool(timelines))
    strip = max(2, budget.frames // 2)  # cards with a timeline have two strips
    time_spec = TimeSpec(**results.summary.time) if results.summary.time else None

    def moments_s(result: InputResult) -> tuple[list[float], list[float]]:
        timeline = timelines.get(result.prediction.path)
        return (
            moments_from_prediction(result.prediction, time_spec, strip if timeline else budget.frames),
            timeline.peak_moments_s[:strip] if timeline else [],
        )

    def card(result: InputResult, pictures: tuple[Picture, ...], photos: Sequence[Record] | None) -> Card:
        prediction = result.prediction
        shown = len(pictures) if photos else len(moments_s(result)[0])
        band = None if prediction.severity is None else band_from_severity(prediction.severity)
        return Card(
            _name(prediction.path, root),
            result,
            band,
            pictures[:shown],
            timelines.get(prediction.path),
            pictures[shown:],
            None if photos is None else len(photos),
        )

    photos: list[Sequence[Record] | None] = [
        (result.prediction.report or {}).get("photos") for result in results.gallery
    ]
    requests: list[_Request] = []
    for place, (result, own) in enumerate(zip(results.gallery, photos, strict=True)):
        if own is None:
            requests.append(_Request(place, result.prediction.path, tuple(chain(*moments_s(result))), budget.max_bytes))
        else:
            shown = own[: budget.frames]
            requests += [
                _Request(place, path_of_record(photo) or photo, (0.0,), budget.max_bytes // len(shown))
                for photo in shown
            ]
    found = _read_pictures(requests, out, int(results.summary.settings["max_memory_mb"]), pool)
    pictures: list[tuple[Picture, ...]] = [()] * len(photos)
    for request, read in zip(requests, found, strict=True):
        pictures[request.place] += read
    return [card(*each) for each in zip(results.gallery, pictures, photos, strict=True)]


@dataclass(frozen=True)
class _Request:
    """Pictures that a card needs of a file, or of a photo in a row of a Parquet file; ``place`` is the card's index."""

    place: int
    source: str | Record
    moments_s: tuple[float, ...]
    max_bytes: int


def _read_pictures(
    requests: Sequence[_Request], out: Path, max_memory_mb: int, pool: DecodePool | None
) -> list[tuple[Picture, ...]]:
    """Return the pictures per request: kept thumbnails if there are any, else pictures read from the sources."""
    wanted = {request.source for request in requests if isinstance(request.source, str)}
    kept = read_kept_thumbnails(out, (row for row in read_ledger(out) if row.path in wanted))
    found: dict[int, tuple[Picture, ...]] = {}
    missing: list[ThumbnailInput] = []
    in_rows: defaultdict[int, dict[int, Record]] = defaultdict(dict)
    for number, request in enumerate(requests):
        if not isinstance(request.source, str):
            in_rows[request.max_bytes][number] = request.source
            continue
        if request.source in kept:
            found[number] = thumbnails_at_moments(kept[request.source], request.moments_s, request.max_bytes)
        if not found.get(number):
            missing.append(ThumbnailInput(number, request.source, request.moments_s, request.max_bytes))
    with nullcontext(pool) if pool else DecodePool(max(1, min(default_workers(), len(requests)))) as opened:
        if missing:
            read = opened.thumbnails(missing, ThumbnailSettings(max_memory_mb))
            found |= {request.id: thumbnails for request, thumbnails in zip(missing, read, strict=True)}
        for max_bytes, photos in in_rows.items():
            pictures = read_bounded_pictures([*photos.values()], opened, max_bytes, max_memory_mb)
            found |= {number: (picture,) if picture else () for number, picture in zip(photos, pictures, strict=True)}
    return [found[number] for number in range(len(requests))]


def moments_from_prediction(prediction: Prediction, time_spec: TimeSpec | None, most: int) -> list[float]:
    """Return at most ``most`` evenly spread moments of those that the time spec selects in the prediction's window.

    A photo has one moment, 0. The frames of a video at these moments are those that the model saw, unless it was given
    only keyframes: then it saw the last keyframe before each moment.
    """
    if prediction.start_s is None or prediction.end_s is None:
        return [0.0]
    time_spec = time_spec or TimeSpec(frames=1)
    window_s = time_spec.window_s or prediction.end_s - prediction.start_s
    moments_s = moments_from_window(prediction.start_s, window_s, time_spec.frames)
    chosen = np.linspace(0, len(moments_s) - 1, min(most, len(moments_s))).round().astype(int)
    return [float(moment_s) for moment_s in moments_s[chosen]]


def _doubts(prediction: Prediction) -> list[tuple[str, Sequence[str]]]:
    """Return the targets whose answer is uncertain, with the labels that cannot be excluded."""
    answers = {target: max(scores, key=scores.__getitem__) for target, scores in prediction.targets.items()}
    return [(target, prediction.candidates[target]) for target in doubtful_targets(prediction.candidates, answers)]


def _texts(prediction: Prediction, target: str | None) -> list[tuple[str, str]]:
    """Return headings and the texts under them.

    A generated report has all its fields except the label, which is that of ``target``. An answer that could not be
    parsed, or that is in free words, is given verbatim.
    """
    report = prediction.report
    if report is None:
        found = [("Description", prediction.description), ("Risk", prediction.risk), ("Advice", prediction.advice)]
    else:
        found = [
            (name.replace("_", " ").capitalize(), text)
            for name, text in report["fields"].items()
            if (name, text) != (target, prediction.label)
        ]
        if not report["parse_ok"] or "question" in report:
            found.append(("Answer", report["text"] or "–"))
        if report.get("given_level") and report.get("own_level") not in ("", report["given_level"]):
            found.append(
                (
                    "Disagreement",
                    f"The classifier predicts {report['given_level']}, and this text was written for that level; "
                    f"the language model considers {report['own_level']} more likely.",
                )
            )
    return [(heading, text) for heading, text in found if text]


def _name(path: str, root: Path) -> str:
    return name_of(os.path.relpath(path, root))


def _environment() -> jinja2.Environment:
    environment = page_environment(Path(__file__).parent)
    environment.filters |= {
        "percent": percent_text,
        "seconds": _seconds,
        "clock": _clock,
        "interval": _interval,
        "moment": moment_text,
        "lang": lang_of,
        "count": "{:,}".format,
        "doubts": _doubts,
        "texts": _texts,
    }
    return environment


def percent_text(part: float) -> str:
    """Format a share of 0–1 as a percentage.

    99.97 % is never rounded up to 100 %, nor a small share down to 0 %.
    """
    percent = 100 * part
    if 99 < percent < 100:
        return f"{min(percent, 99.9):.1f} %"
    return f"{max(percent, 0.1):.1f} %" if 0 < percent < 1 else f"{percent:.0f} %"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 100 else f"{int(value) // 60} min {int(value) % 60:02d} s"


def _clock(time_s: float, duration_s: float) -> str:
    """Format a moment of a video: ``7.25 s`` of a short one, else ``2:07.2`` or ``1:02:07.2``."""
    if duration_s < 100:
        return f"{time_s:.2f} s"
    minutes, tenths = divmod(round(time_s * 10), 600)
    hours, minutes = divmod(minutes, 60)
    return f"{f'{hours}:{minutes:02}' if hours else minutes}:{tenths // 10:02}.{tenths % 10}"


def _interval(interval_s: tuple[float, float], duration_s: float) -> str:
    """Format an interval: ``7.25–8.50 s``, or ``2:07.2–2:08.5``."""
    start, end = (_clock(time_s, duration_s) for time_s in interval_s)
    return f"{start.removesuffix(' s')}–{end}"


def moment_text(iso_time: str) -> str:
    return datetime.fromisoformat(iso_time).strftime("%d %B %Y, %H:%M UTC").lstrip("0")


def lang_of(text: str) -> str:
    """Return ``zh`` if a text has Chinese characters, so that browsers use their Chinese forms, else ``en``."""
    return "zh" if any("CJK UNIFIED" in unicodedata.name(character, "") for character in text) else "en"
