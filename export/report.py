"""What the gate has found: the content of ``gate.json`` and of ``gate.html``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Flip:
    """A sample whose prediction changed. Labels are texts; the label of outputs that are not finite is empty.

    Attributes:
        index: place among the validation samples.
        confidence_before, confidence_after: probability of the predicted label, 0–1.
    """

    index: int
    sample: str
    target: str
    truth: str
    before: str
    after: str
    confidence_before: float
    confidence_after: float


@dataclass(frozen=True)
class Change:
    """What a hop did to one target. A drop above 0 is a loss.

    Attributes:
        top1_before, top1_after: 0–1.
        interval_points: 95 % interval of the drop in percentage points.
        p_value: how likely chance alone explains the drop.
        per_class: drop of recall in points, of the classes that have samples.
        ece_before, ece_after: expected calibration error of the top-1 confidence; NaN where outputs are not finite or unknown.
    """

    target: str
    top1_before: float
    top1_after: float
    drop_points: float
    interval_points: tuple[float, float]
    p_value: float
    per_class: dict[str, float]
    ece_before: float
    ece_after: float


@dataclass(frozen=True)
class Hop:
    """The comparison of one stage with the one before it.

    Attributes:
        waived: it loses more than it may, and was let pass all the same; ``reason`` says what.
        agreement: share of samples that keep their prediction in every target, 0–1; NaN where there is none to compare with.
        drop_points: percentage points of top-1 lost in the worst target.
        largest_logit_difference, largest_feature_difference: infinite where outputs are not finite, NaN as ``agreement``.
        feature_cosine: of the frame whose features turn most; -1 where they are not finite, NaN as ``agreement``.
        ms_per_frame: time of the encoder in this stage.
        flips: the first 200, one per target that changed.
        flipped: samples whose prediction changed in any target.
    """

    name: str
    variant: str
    runtime: str
    passed: bool
    reason: str
    waived: bool
    agreement: float
    drop_points: float
    largest_logit_difference: float
    largest_feature_difference: float
    ms_per_frame: float
    changes: tuple[Change, ...]
    flips: tuple[Flip, ...]
    flipped: int
    feature_cosine: float = math.nan


@dataclass(frozen=True)
class Lap:
    """How fast and how large a variant is on one runtime; ``bytes`` counts the files of all its graphs."""

    variant: str
    runtime: str
    ms_per_frame: float
    frames_per_s: float
    bytes: int


@dataclass(frozen=True)
class Verdict:
    """Whether a variant was shipped. ``reason`` says why not, or what the gate would have refused had the exporter not insisted."""

    variant: str
    shipped: bool
    reason: str = ""


@dataclass
class GateReport:
    """Content of ``gate.json`` and ``gate.html``; it fills as the export goes.

    Attributes:
        note: says when the samples are too few.
        target: ``cpu``, ``gpu`` or ``jetson``.
        search: one row per block that the precision search measured.
        points: the choices of blocks in floating point that it tried.
        recipe: ways to quantise that were tried, with the signal-to-noise ratio of each.
        temperature: by variant and target.
        calibration: what the ranges were measured on, and how.
        float32: what stays in float32 of FP16 graphs: ``what``, ``nodes`` (how many) and ``reason``.
        half: what the check of FP16 came to: ``frames``, ``cosine`` of the worst one, and that of every block.
        parsed_by: TensorRT libraries that have read every graph; none where none is installed, or none is to run the bundle.
        verdicts: one per variant that was judged.
    """

    max_drop: float
    samples: int
    note: str = ""
    target: str = "cpu"
    hops: list[Hop] = field(default_factory=list)
    laps: list[Lap] = field(default_factory=list)
    search: list[dict[str, Any]] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)
    recipe: list[dict[str, Any]] = field(default_factory=list)
    temperature: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    float32: list[dict[str, Any]] = field(default_factory=list)
    half: dict[str, Any] = field(default_factory=dict)
    parsed_by: tuple[str, ...] = ()
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def shipped(self) -> tuple[str, ...]:
        """Variants that the bundle holds; none when the gate refused."""
        return tuple(verdict.variant for verdict in self.verdicts if verdict.shipped)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and containers, ready for JSON; what is not finite becomes None."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
