"""Build ``report.html`` from an output folder alone: one file, no network, readable without scripts."""

from __future__ import annotations

import os
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import jinja2

from vidrisk.frames.media import name_of
from vidrisk.infer.folder import writing_to
from vidrisk.infer.ledger import READ_STATES
from vidrisk.infer.predictions import Prediction
from vidrisk.report.results import InputResult, Results, band_from_severity, common_folder, read_results
from vidrisk.report.thumbnails import Thumbnail, thumbnails_from_prediction
from vidrisk.runtimes.specs import TimeSpec

REPORT = "report.html"
TEMPLATE = "report.html.j2"

# 500 cards must stay under 5 MB: what the text of the page leaves, less a third for base64.
MAX_THUMBNAIL_BYTES = 2_700_000
MAX_CARD_BYTES = 60_000
THREADS = 2


@dataclass(frozen=True)
class Card:
    """One input as the gallery shows it."""

    name: str
    prediction: Prediction
    windows: int
    band: str | None
    thumbnails: tuple[Thumbnail, ...]


def build_report(out: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` into the output folder of a run that has ended. May be repeated at any time.

    Thumbnails come from the sources; an input that has gone since gets a placeholder.

    Raises:
        DataError: the run has not ended, or its files are of another version.
        VidriskError: the folder holds no run, or cannot be written.
    """
    out = Path(out)
    results = read_results(out)
    root = common_folder([*(r.prediction.path for r in results.gallery), *(row.path for row in results.failures)])
    page = _environment().get_template(TEMPLATE).render(
        results=results, summary=results.summary, cards=_cards(results, root), root=name_of(root),
        failures=[(_name(row.path, root), row) for row in results.failures], read_states=READ_STATES,
        level_bands={level.label: level.band for level in results.levels})
    path = out / REPORT
    with writing_to(out):
        new = path.with_name(f"{REPORT}.new")
        new.write_text(page, encoding="utf-8", errors="replace")
        new.replace(path)
    return path


def _cards(results: Results, root: Path) -> list[Card]:
    max_bytes = min(MAX_CARD_BYTES, MAX_THUMBNAIL_BYTES // max(len(results.gallery), 1))
    time_spec = TimeSpec(**results.summary.time) if results.summary.time else None

    def card(result: InputResult) -> Card:
        prediction = result.prediction
        band = None if prediction.severity is None else band_from_severity(prediction.severity)
        return Card(_name(prediction.path, root), prediction, result.windows, band,
                    thumbnails_from_prediction(prediction, time_spec, max_bytes))

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(card, results.gallery))


def _name(path: str, root: Path) -> str:
    return name_of(os.path.relpath(path, root))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True,
                                     undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "seconds": _seconds, "moment": _moment, "lang": _lang,
                            "count": "{:,}".format}
    return environment


def _percent(part: float) -> str:
    """0–1 as text that never rounds a certain-looking 99.97 % up to 100 or a rare class down to 0."""
    percent = 100 * part
    if 99 < percent < 100:
        return f"{min(percent, 99.9):.1f} %"
    return f"{max(percent, 0.1):.1f} %" if 0 < percent < 1 else f"{percent:.0f} %"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 100 else f"{int(value) // 60} min {int(value) % 60:02d} s"


def _moment(iso_time: str) -> str:
    return datetime.fromisoformat(iso_time).strftime("%d %B %Y, %H:%M UTC").lstrip("0")


def _lang(text: str) -> str:
    """``zh`` where a text has Chinese characters, so that browsers take their Chinese forms; else ``en``."""
    return "zh" if any("CJK UNIFIED" in unicodedata.name(character, "") for character in text) else "en"
