"""Build a page of a model's most confident errors: pictures, truth, answer, and its probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidrisk import __version__
from vidrisk.decode.messages import ThumbnailInput, ThumbnailSettings
from vidrisk.decode.pool import DecodePool, default_workers
from vidrisk.decode.thumbnails import Thumbnail
from vidrisk.frames.media import name_of
from vidrisk.frames.sampling import moments_from_window
from vidrisk.jobs.evaluate import Evaluation
from vidrisk.jobs.folder import replace_file
from vidrisk.jobs.worst import Shown
from vidrisk.report.build import percent_text
from vidrisk.runtimes.html import page_environment

TEMPLATE = "errors.html.j2"
FRAMES = 3  # per clip: the middles of its thirds
MAX_CARD_BYTES = 30_000  # for the pictures of a card, before base64


@dataclass(frozen=True)
class ErrorCard:
    """One error as shown on the page.

    Attributes:
        name: of the file, and the part of it.
        answer: the model's answer; for a multi-label target, the label and whether it holds.
        score: probability of the answer.
        thumbnails: empty if the file can no longer be read.
    """

    name: str
    truth: str
    answer: str
    score: float
    thumbnails: tuple[Thumbnail, ...]


def build_errors(evaluation: Evaluation, path: Path, pool: DecodePool | None = None) -> Path:
    """Write the page.

    Args:
        evaluation: its errors are shown.
        path: HTML file to write.
        pool: decode pool to use; None creates one if it is needed.

    Raises:
        RuntimeFailure: decode processes cannot be started.
        VidriskError: the page cannot be written.
    """
    shown = dict.fromkeys(error.shown for errors in evaluation.errors.values() for error in errors)
    pictures = _pictures(tuple(shown), int(evaluation.settings["max_memory_mb"]), pool)
    cards = {
        target: [ErrorCard(name_of(error.shown.title), *_sides(error.told), pictures[error.shown]) for error in errors]
        for target, errors in evaluation.errors.items()
    }
    environment = page_environment(Path(__file__).parent)
    environment.filters["percent"] = percent_text
    page = environment.get_template(TEMPLATE).render(
        cards=cards, evaluation=evaluation, version=__version__, model=evaluation.provenance.get("model", "")
    )
    with replace_file(path) as new:
        new.write_text(page, encoding="utf-8", errors="replace")
    return path


def _sides(error: Mapping[str, Any]) -> tuple[str, str, float]:
    """Return truth, answer, and the probability of the answer."""
    if "label" not in error:
        return error["true"], error["predicted"], error["score"]
    holds = f"{error['label']}: holds", f"{error['label']}: does not hold"
    truth, answer = holds if error["holds"] else holds[::-1]
    return truth, answer, 1 - error["score"] if error["holds"] else error["score"]


def _pictures(
    shown: Sequence[Shown], max_memory_mb: int, pool: DecodePool | None
) -> dict[Shown, tuple[Thumbnail, ...]]:
    requests = []
    for place, each in enumerate(shown):
        start_s, end_s = each.span_s or (0.0, 0.0)
        moments = tuple(moments_from_window(start_s, end_s - start_s, FRAMES).tolist()) if end_s > start_s else (0.0,)
        requests.append(ThumbnailInput(place, each.path, moments, MAX_CARD_BYTES))
    if not requests:
        return {}
    with nullcontext(pool) if pool else DecodePool(min(default_workers(), len(requests))) as opened:
        return dict(zip(shown, opened.thumbnails(requests, ThumbnailSettings(max_memory_mb)), strict=True))
