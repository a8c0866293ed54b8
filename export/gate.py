"""The gate: every hop of an export is compared with the one before it, on the user's own samples.

    adapter → merged → ONNX fp32 → INT8, the ONNX hops once per runtime that works here

A floating-point hop must reproduce its predecessor; an INT8 hop may lose ``max_drop`` points of top-1 accuracy.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract import Contract
from vidrisk.runtimes.errors import DataError
from vidrisk.runtimes.runner import Runner

FloatArray = npt.NDArray[np.float32]
BATCH = 16
LOGIT_TOLERANCE = 1e-3
FEW_SAMPLES = 100


@dataclass(frozen=True)
class Validation:
    """Labelled samples that the gate judges on.

    Attributes:
        frames: ``uint8 (N, T, H, W, 3)``.
        truth: label indices ``int64 (N,)`` per target name.
        names: N names, to say which samples flipped.
    """

    frames: npt.NDArray[np.uint8]
    truth: Mapping[str, npt.NDArray[np.int64]]
    names: Sequence[str]

    def __post_init__(self) -> None:
        lengths = {len(self.frames), len(self.names), *(len(t) for t in self.truth.values())}
        if len(lengths) != 1 or not len(self.frames):
            raise DataError(f"validation samples of lengths {sorted(lengths)}", allowed="equal lengths, at least one sample")


@dataclass(frozen=True)
class Outputs:
    """What one stage of the export computes on the validation samples.

    Attributes:
        features: ``float32 (N·T, D)``.
        logits: ``float32 (N, C)`` per target name.
        ms_per_frame: median time of the encoder per frame, in batches of ``BATCH`` frames.
    """

    features: FloatArray
    logits: Mapping[str, FloatArray]
    ms_per_frame: float


@dataclass(frozen=True)
class Hop:
    """The comparison of one stage with the one before it. Accuracies are fractions, ``drop_points`` percentage points."""

    name: str
    variant: str
    runtime: str
    largest_logit_difference: float
    largest_feature_difference: float
    agreement: float
    top1_before: dict[str, float]
    top1_after: dict[str, float]
    drop_points: float
    ms_per_frame: float
    flipped: list[str]
    passed: bool
    reason: str = ""


@dataclass
class GateReport:
    """Content of ``gate.json``; hops are added as the export passes them."""

    max_drop: float
    samples: int
    hops: list[Hop] = field(default_factory=list)
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def outputs_of(encoder: Runner, head: Runner, contract: Contract, frames: npt.NDArray[np.uint8]) -> Outputs:
    """Run encoder and head over ``uint8 (N, T, H, W, 3)``."""
    samples, moments = frames.shape[:2]
    flat = frames.reshape(-1, *frames.shape[2:])
    features: list[FloatArray] = []
    seconds: list[float] = []
    encoder.infer({"frames": flat[:BATCH]})  # warm-up, so that no stage is timed while it compiles
    for begin in range(0, len(flat), BATCH):
        batch = flat[begin : begin + BATCH]
        clock = time.perf_counter()
        features.append(np.asarray(encoder.infer({"frames": batch})["features"], np.float32))
        seconds.append((time.perf_counter() - clock) / len(batch))
    whole = np.concatenate(features)
    by_clip = whole.reshape(samples, moments, -1)
    parts = [head.infer({"features": by_clip[begin : begin + BATCH]}) for begin in range(0, samples, BATCH)]
    logits = {t.name: np.concatenate([np.asarray(p[f"{t.name}_logits"], np.float32) for p in parts]) for t in contract.targets}
    return Outputs(whole, logits, float(np.median(seconds)) * 1e3)


def float_hop(name: str, variant: str, runtime: str, before: Outputs, after: Outputs, validation: Validation) -> Hop:
    """A hop that must change nothing: logits within ``LOGIT_TOLERANCE``.

    So a prediction can only change where the two best logits were within twice the tolerance: undecided before.
    """
    hop = _compared(name, variant, runtime, before, after, validation)
    if not np.isfinite(hop.largest_logit_difference):
        return _failed(hop, "outputs are not finite")
    if hop.largest_logit_difference > LOGIT_TOLERANCE:
        return _failed(hop, f"logits differ by {hop.largest_logit_difference:.2g}, at most {LOGIT_TOLERANCE:g} is allowed")
    return hop


def int8_hop(name: str, runtime: str, before: Outputs, after: Outputs, validation: Validation, max_drop: float) -> Hop:
    """A hop that may cost at most ``max_drop`` points of top-1 accuracy in any target."""
    hop = _compared(name, "int8", runtime, before, after, validation)
    if not np.isfinite(hop.largest_logit_difference):
        return _failed(hop, "outputs are not finite")
    if hop.drop_points > max_drop + 1e-9:
        return _failed(hop, f"top-1 falls by {hop.drop_points:.2f} points, at most {max_drop:g} is allowed")
    return hop


def few_samples_note(samples: int) -> str:
    """Says when the samples cannot carry the judgement."""
    if samples >= FEW_SAMPLES:
        return ""
    return f"{samples} samples are few: one of them is {100 / samples:.1f} points, so smaller drops cannot be seen"


def _compared(name: str, variant: str, runtime: str, before: Outputs, after: Outputs, validation: Validation) -> Hop:
    logit_difference = max(_largest(before.logits[t], after.logits[t]) for t in before.logits)
    top1_before, top1_after = ({target: float((outputs.logits[target].argmax(1) == truth).mean())
                                for target, truth in validation.truth.items()} for outputs in (before, after))
    drop = max(top1_before[t] - top1_after[t] for t in top1_before) * 100
    same = np.all([before.logits[t].argmax(1) == after.logits[t].argmax(1) for t in before.logits], axis=0)
    flipped = [name for name, kept in zip(validation.names, same, strict=True) if not kept]
    return Hop(name, variant, runtime, logit_difference, _largest(before.features, after.features), float(same.mean()),
               top1_before, top1_after, drop, after.ms_per_frame, flipped, passed=True)


def _largest(before: FloatArray, after: FloatArray) -> float:
    with np.errstate(invalid="ignore"):  # infinite minus infinite
        difference = np.abs(before - after)
    return float(difference.max()) if np.isfinite(difference).all() else float("inf")


def _failed(hop: Hop, reason: str) -> Hop:
    return replace(hop, passed=False, reason=reason)
