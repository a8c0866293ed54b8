"""Findings of the gate: the content of ``gate.json`` and ``gate.html``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from vidrisk.calibration.conformal import Fit
from vidrisk.export.gate.text_report import RecipeTrial, TextHop, VariantTrial
from vidrisk.runtimes.contract import versions


@dataclass(frozen=True)
class Flip:
    """A sample whose prediction changed.

    Labels are texts; outputs that are not finite have an empty label.

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
    """Effect of a hop on one target. A drop above 0 is a loss.

    Attributes:
        top1_before, top1_after: share of right answers, 0–1. Of a multi-label target, the whole answer must be right.
        drop_points: of top-1, or of a multi-label target of mAP, in percentage points.
        interval_points: 95 % interval of the drop.
        p_value: probability of such a drop by chance alone.
        per_class: drop of recall in points, of the classes that have samples.
        ece_before, ece_after: expected calibration error of the top-1 confidence, after temperature if there is one;
            NaN if outputs are not finite or unknown.
        confidence_points: mean shift of the top label's probability for unchanged predictions, after temperature,
            0–100: over all samples, or over the class with the largest shift; NaN as ``ece_after``.
        confidence_class: that class; empty for all samples.
        map_before, map_after: mean average precision of a multi-label target, 0–1; otherwise NaN.
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
    confidence_points: float = math.nan
    confidence_class: str = ""
    map_before: float = math.nan
    map_after: float = math.nan

    @property
    def score_before(self) -> float:
        """The judged score before the hop: top-1, or mAP of a multi-label target."""
        return self.top1_before if math.isnan(self.map_after) else self.map_before

    @property
    def score_after(self) -> float:
        """The judged score after the hop."""
        return self.top1_after if math.isnan(self.map_after) else self.map_after

    @property
    def measure(self) -> str:
        """Name of the score that ``drop_points`` refers to."""
        return "top-1" if math.isnan(self.map_after) else "mAP"


@dataclass(frozen=True)
class Cut:
    """Effect of a hop on one output of a stage that both sides have.

    Attributes:
        largest_difference: of any element; infinite if outputs are not finite.
        cosine: of the worst row (a frame, a group of frames or a window); -1 if outputs are not finite.
    """

    stage: str
    output: str
    largest_difference: float
    cosine: float


@dataclass(frozen=True)
class Hop:
    """The comparison of a model with its predecessor.

    Attributes:
        waived: it loses more than allowed, but was admitted on request; ``reason`` has the details.
        agreement: share of samples that keep their prediction in every target, 0–1; NaN if there is nothing to compare
            with.
        drop_points: percentage points of top-1 lost in the worst target.
        largest_logit_difference: infinite if outputs are not finite, NaN as ``agreement``.
        ms_per_frame: time of all stages.
        cuts: one per output of the stages but the last; empty if there is nothing to compare with.
        flips: the first 200, one per target that changed.
        flipped: number of samples whose prediction changed in any target, of the ``samples`` that judged this hop.
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
    ms_per_frame: float
    changes: tuple[Change, ...]
    flips: tuple[Flip, ...]
    flipped: int
    cuts: tuple[Cut, ...] = ()
    samples: int = 0

    @property
    def worst_difference(self) -> float:
        """The largest difference of any stage's output; NaN if there is none."""
        return max((cut.largest_difference for cut in self.cuts), default=math.nan)

    @property
    def worst_cosine(self) -> float:
        """The lowest cosine of any stage's output; NaN if there is none."""
        return min((cut.cosine for cut in self.cuts), default=math.nan)


@dataclass(frozen=True)
class Lap:
    """Speed and size of a variant on one runtime; ``bytes`` counts the files of all its stages."""

    variant: str
    runtime: str
    ms_per_frame: float
    frames_per_s: float
    bytes: int


@dataclass(frozen=True)
class Speed:
    """Speed of a variant relative to floating point, each on its fastest runtime.

    Attributes:
        ratio: frames per second, as a multiple of floating point's: the median of paired turns.
        low, high: ends of its 95 % interval.
        turns: number of timed turns.
    """

    variant: str
    runtime: str
    float_runtime: str
    ratio: float
    low: float
    high: float
    turns: int

    @property
    def is_faster(self) -> bool:
        """Whether it is faster beyond chance."""
        return self.low > 1

    @property
    def is_slower(self) -> bool:
        """Whether it is slower beyond chance."""
        return self.high < 1


@dataclass(frozen=True)
class Selection:
    """The samples that chose the precision of the blocks, and those that judged the result.

    Attributes:
        choosing, judging: numbers of samples.
        is_separate: no sample is in both.
        reason: why this point was chosen.
        set_aside: why points that promised more speed were not shipped, after the judging samples had refused them.
        optimism_points: by how much the drop may look too small because the same samples choose and judge, by the
            bootstrap; None if they are separate, or there was nothing to choose from.
    """

    choosing: int
    judging: int
    is_separate: bool
    reason: str = ""
    set_aside: str = ""
    optimism_points: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a variant was shipped.

    ``reason`` says why not, or what the gate would have refused without the exporter's waiver.
    """

    variant: str
    shipped: bool
    reason: str = ""


@dataclass
class GateReport:
    """Content of ``gate.json`` and ``gate.html``, filled in as the export proceeds.

    Attributes:
        note: says when the samples are too few.
        target: ``cpu``, ``gpu``, ``jetson`` or ``any``.
        search: one row per block that the precision search measured.
        points: the choices of blocks in floating point that it tried.
        recipe: tried ways to quantise, with the signal-to-noise ratio of each.
        temperature: by variant and target.
        coverage: when an answer is uncertain, by variant and target.
        decision: the probability from which a label holds, by variant, multi-label target and label (version 1.5 on).
        calibration: the data and method that the ranges were measured with.
        float32: parts of FP16 graphs that stay in float32: ``what``, ``nodes`` (how many) and ``reason``.
        half: result of the FP16 check: ``frames``, ``cosine`` of the worst one, and that of every block.
        parsed_by: TensorRT libraries that have read every graph; empty if none is installed, or the bundle is not for
            them.
        speeds: of the quantised variants.
        stages: of the model: ``name``, ``per``, ``group``, ``macs`` of one run, and its ``share`` of a window's work.
        precision: by variant and stage.
        selection: None if nothing was quantised.
        verdicts: one per judged variant.
        source: origin of the model, and the findings on a foreign one.
        text_hops, text_recipes: of a language model, which has no other hops (version 1.3 on).
        text_variants: that were offered to the gate, in order (version 1.4 on).
    """

    max_drop: float
    samples: int
    note: str = ""
    target: str = "cpu"
    max_confidence_drop: float = 100.0
    hops: list[Hop] = field(default_factory=list)
    laps: list[Lap] = field(default_factory=list)
    search: list[dict[str, Any]] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)
    recipe: list[dict[str, Any]] = field(default_factory=list)
    temperature: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    coverage: Mapping[str, Mapping[str, Fit]] = field(default_factory=dict)
    decision: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    float32: list[dict[str, Any]] = field(default_factory=list)
    half: dict[str, Any] = field(default_factory=dict)
    parsed_by: tuple[str, ...] = ()
    speeds: list[Speed] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    precision: dict[str, dict[str, str]] = field(default_factory=dict)
    selection: Selection | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    source: Mapping[str, str] = field(default_factory=dict)
    text_hops: list[TextHop] = field(default_factory=list)
    text_recipes: list[RecipeTrial] = field(default_factory=list)
    text_variants: list[VariantTrial] = field(default_factory=list)

    @property
    def shipped(self) -> tuple[str, ...]:
        """Variants in the bundle; empty if the gate refused."""
        return tuple(verdict.variant for verdict in self.verdicts if verdict.shipped)

    def speed_of(self, variant: str) -> Speed | None:
        """Return a variant's speed relative to floating point, or None if it was not timed."""
        return next((speed for speed in self.speeds if speed.variant == variant), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and containers for JSON; values that are not finite become None."""
        return versions.GATE.stamp(_plain(asdict(self)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
