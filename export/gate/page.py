"""The gate's report as one HTML file for the decision maker, without scripts or network access."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import numpy.typing as npt
from PIL import Image

from vidrisk.export.gate.confidence import CLASS_SAMPLES, ECE_SHARE
from vidrisk.export.gate.report import Flip, GateReport, Hop, Lap
from vidrisk.export.gate.selection import SEPARATE_FROM, agreement_aim
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.manifest import WEIGHT_ONLY
from vidrisk.runtimes.html import page_environment
from vidrisk.runtimes.paired import SIGNIFICANT, least_provable_points

TEMPLATE = "gate.html.j2"
MAX_THUMBNAILS = 60
MAX_MOMENTS = 4
SIDE_PX = 128
QUALITY = 80
FLOAT_VARIANTS = ("trained", "merged", "fp32", "finished", "migrated")


@dataclass(frozen=True)
class Picture:
    """A JPEG as a data URI; a clip is shown as some of its frames side by side."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Card:
    """A flipped sample, and the hops in which it flipped in this way."""

    flip: Flip
    stages: tuple[str, ...]
    picture: Picture

    @property
    def outcome(self) -> str:
        if self.flip.before == self.flip.truth:
            return "now wrong"
        return "now right" if self.flip.after == self.flip.truth else "wrong both times"


def gate_page(report: GateReport, contract: Contract, frames: npt.NDArray[np.uint8], title: str) -> str:
    """Render the page.

    Args:
        report: the gate's findings.
        contract: of the model.
        frames: the validation samples ``uint8 (N, T, H, W, 3)``, for thumbnails of flipped samples.
        title: name of the bundle.
    """
    flips = _distinct_flips(report.hops)
    cards = [Card(flip, stages, picture_from_clip(frames[flip.index])) for flip, stages in flips[:MAX_THUMBNAILS]]
    headline = _headline(report.hops)
    judging = report.selection.judging if report.selection else report.samples
    page = (
        gate_environment()
        .get_template(TEMPLATE)
        .render(
            report=report,
            contract=contract,
            title=title,
            headline=headline,
            cards=cards,
            more_flips=len(flips) - len(cards),
            judged=[hop for hop in report.hops if hop.changes and (hop.flipped or hop.variant not in FLOAT_VARIANTS)],
            fastest={
                variant: _fastest(report.laps, variant) for variant in dict.fromkeys(lap.variant for lap in report.laps)
            },
            refusals=[verdict for verdict in report.verdicts if not verdict.shipped],
            has_packed=any(WEIGHT_ONLY & set(of_stages.values()) for of_stages in report.precision.values()),
            rows=sorted(report.search, key=lambda row: -row["noise_share"]),
            significant=SIGNIFICANT,
            judging=judging,
            least_points=least_provable_points(judging),
            separate_from=SEPARATE_FROM,
            aim=agreement_aim(report.max_drop),
            class_samples=CLASS_SAMPLES,
            ece_share=ECE_SHARE,
        )
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # file names may contain characters that cannot be encoded


def picture_from_clip(clip: npt.NDArray[np.uint8]) -> Picture:
    """Make a picture of ``uint8 (T, H, W, 3)``: its single frame, or up to four, evenly spread, in a row."""
    chosen = np.linspace(0, len(clip) - 1, min(len(clip), MAX_MOMENTS)).round().astype(int)
    moments = []
    for frame in clip[chosen]:
        moment = Image.fromarray(frame)
        moment.thumbnail((SIDE_PX, SIDE_PX))
        moments.append(np.asarray(moment))
    strip = Image.fromarray(np.concatenate(moments, axis=1))
    buffer = io.BytesIO()
    strip.save(buffer, "JPEG", quality=QUALITY)
    return Picture(f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", *strip.size)


def _headline(hops: Sequence[Hop]) -> Hop | None:
    """Return the decisive hop: the first refused one, else the worst of the quantised ones, else of the ONNX ones."""
    refused = [hop for hop in hops if not hop.passed]
    if refused:
        return refused[0]
    quantised = [hop for hop in hops if hop.variant not in FLOAT_VARIANTS]
    return max(
        quantised or [hop for hop in hops if hop.variant == "fp32"],
        key=lambda hop: (hop.drop_points, -hop.agreement),
        default=None,
    )


def _distinct_flips(hops: Sequence[Hop]) -> list[tuple[Flip, tuple[str, ...]]]:
    """Return every change once, with the hops that made it; losses first, the surest first."""
    found: dict[tuple[int, str, str, str], tuple[Flip, list[str]]] = {}
    for hop in hops:
        for flip in hop.flips:
            _, stages = found.setdefault((flip.index, flip.target, flip.before, flip.after), (flip, []))
            stages.append(f"{hop.variant} {hop.runtime}")

    def place(flip: Flip) -> tuple[int, float]:
        kind = 0 if flip.before == flip.truth else 2 if flip.after == flip.truth else 1
        return kind, -flip.confidence_before if math.isfinite(flip.confidence_before) else 0.0

    return sorted(((flip, tuple(stages)) for flip, stages in found.values()), key=lambda item: place(item[0]))


def _fastest(laps: Sequence[Lap], variant: str) -> Lap:
    return min((lap for lap in laps if lap.variant == variant), key=lambda lap: lap.ms_per_frame)


def gate_environment() -> jinja2.Environment:
    """Return the environment of the gate's templates, with filters for figures."""
    environment = page_environment(Path(__file__).parent)
    environment.filters |= {
        "percent": _percent,
        "points": _points,
        "digits": _digits,
        "ms": _ms,
        "megabytes": _megabytes,
        "chance": _chance,
        "width": _width,
        "lang": _lang,
        "count": "{:,}".format,
    }
    return environment


def _percent(part: float) -> str:
    """Format 0–1 as a percentage; 99.97 % is never rounded up to 100, nor a trace down to 0."""
    if not math.isfinite(part):
        return "–"
    percent = 100 * part
    percent = min(percent, 99.9) if percent < 100 else percent
    return f"{max(percent, 0.1) if percent > 0 else percent:.1f} %"


def _width(part: float) -> str:
    return f"{100 * part if math.isfinite(part) else 0:.1f}%"


def _points(points: float) -> str:
    return _digits(points, ".2f")


def _digits(value: float, layout: str = ".3g") -> str:
    """Format a number with a real minus sign, no sign on 0, and a dash for NaN."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    text = format(value, layout)
    return text.lstrip("-") if not text.strip("-0.") else text.replace("-", "−")


def _ms(value: float) -> str:
    return _digits(value, ".2f" if value < 10 else ".1f" if value < 100 else ",.0f")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _chance(p_value: float) -> str:
    return "< 0.001" if p_value < 1e-3 else f"{p_value:.2g}"


def _lang(text: str) -> str:
    """Return ``zh`` if a text has Chinese characters, so that browsers use their Chinese forms; else ``en``."""
    return "zh" if any("\u4e00" <= character <= "\u9fff" for character in text) else "en"
