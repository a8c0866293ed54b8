"""Comparison of one runtime and variant with its expected answers.

Engines round differently, and more so the fewer bits a variant has. The tolerance depends on the variant's precision,
and on how far apart the runtimes were that judged it at export.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vidrisk.inference.model import Classifier
from vidrisk.runtimes.contract.bundle import Precision, Variant, VariantName
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits
from vidrisk.runtimes.golden import Expected, FloatArray, Golden, logit_errors
from vidrisk.runtimes.layers import FLOAT16, FLOAT32, INT4, INT8, Layers

Floats = npt.NDArray[np.float64]

BATCH = 32  # frames, as many as `vidrisk infer` computes at once
# Lowest precision → the precision that at least one layer must run in.
ASKED: dict[Precision, str] = {
    "fp32": FLOAT32,
    "fp16": FLOAT16,
    "int8": INT8,
    "mixed": INT8,
    "int8-weight-only": INT8,
    "int4": INT4,
}
SPREADS = 2.0  # tolerance, in multiples of the spread between the runtimes that judged at export


@dataclass(frozen=True)
class Tolerance:
    """Allowed differences in a sample.

    Attributes:
        largest: of any of its probabilities.
        logits: of its logits, measured by ``logit_errors``: probabilities near 0 and 1 hide much.
    """

    largest: float
    logits: float


# Differences of a probability and of the logits, measured with EfficientNet-Lite0 on ONNX Runtime and OpenVINO on an
# x86 processor: 0.00002 and 0.0001 in fp32, 0.006 and 0.011 if every node rounds to fp16, 0.06 and 0.14 in int8 and
# mixed. GPUs round in other places. With packed weights, an engine may round activations to 8 bits or leave them
# unchanged; in INT8, engines round both.
_INTEGERS = Tolerance(0.15, 0.3)
TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(0.005, 0.005),
    "fp16": Tolerance(0.05, 0.05),
    **dict.fromkeys(("int8-weight-only", "int8", "mixed", "int4"), _INTEGERS),
}
# Upper bound, whatever the spread was. If runtimes are far apart at the decision boundary of a confident model, its
# logits alone decide; beyond this, they are another model's.
MOST = Tolerance(1.0, 0.8)


@dataclass(frozen=True)
class Answers:
    """A runtime's answers to the golden samples: logits ``float32 (N, C)`` by target."""

    logits: Mapping[str, FloatArray]
    layers: Layers


@dataclass(frozen=True)
class Compared:
    """Answers compared with the expected ones; all but ``agreement`` and ``mean`` are per sample.

    Attributes:
        agreement: share of labels that are the expected ones, for the target with the lowest share.
        mean: mean difference of a probability, over samples, classes and targets.
        shift: largest difference of a probability, as ``infer`` would return it, with the temperatures of the manifest.
        logit_errors: the largest over the targets.
        unanswered: the answer is not finite.
        wrong: out of tolerance with the temperatures that the golden samples were sealed with, so the engine is at
            fault.
    """

    agreement: float
    mean: float
    shift: Floats
    logit_errors: Floats
    unanswered: npt.NDArray[np.bool_]
    wrong: npt.NDArray[np.bool_]


def answers_of(classifier: Classifier, golden: Golden) -> Answers:
    """Run a classifier on the golden samples, as ``infer`` does.

    Raises:
        RuntimeFailure: the engine fails.
    """
    logits = classifier.logits_from_frames(golden.frames, BATCH)
    try:
        layers = classifier.layers()
    except Exception as error:  # engines may fail to describe their layers; their answers are valid nevertheless
        layers = Layers(unproved=" ".join(str(error).split()) or type(error).__name__)
    return Answers(logits, layers)


def tolerance_of(precision: Precision, expected: Expected) -> Tolerance:
    """Return the tolerance for a precision on a runtime other than the one of the expected answers."""
    base, spreads = TOLERANCES[precision], expected.spread.values()
    return Tolerance(
        min(max([base.largest, *(SPREADS * each.largest for each in spreads)]), MOST.largest),
        min(max([base.logits, *(SPREADS * each.logits for each in spreads)]), MOST.logits),
    )


def compare_answers(
    answers: Answers, golden: Golden, name: VariantName, variant: Variant, targets: Sequence[Target]
) -> Compared:
    """Compare answers with the expected ones.

    A sample is wrong if a probability or its logits are out of tolerance, if its label differs although the expected
    one was ahead by more than the tolerance, or if it has no finite answer.
    """
    told, found = golden.told.variants[name], answers.logits
    tolerance, wanted, wanted_logits = (
        tolerance_of(variant.lowest_precision, told),
        golden.probabilities(name),
        golden.logits(name),
    )
    served, own = (_apart(_probabilities(targets, found, by), wanted) for by in (variant.temperature, told.temperature))
    unanswered = ~np.all([np.isfinite(logits).all(axis=1) for logits in found.values()], axis=0)
    errors = np.max(
        [
            logit_errors(found[target.name], wanted_logits[target.name], multi_label=target.multi_label)
            for target in targets
        ],
        axis=0,
    )
    decided = [
        _compare_labels(target, found[target.name], wanted_logits[target.name], wanted[target.name])
        for target in targets
    ]
    is_other = np.array([other for other, _ in decided])
    is_ahead = np.array([lead > tolerance.largest for _, lead in decided])
    wrong = (
        (own.max(axis=1) > tolerance.largest)
        | (errors > tolerance.logits)
        | (is_other & is_ahead).any(axis=0)
        | unanswered
    )
    agreement = 1 - (is_other | unanswered).mean(axis=1).max()
    return Compared(float(agreement), float(served.mean()), served.max(axis=1), errors, unanswered, wrong)


def _probabilities(
    targets: Sequence[Target], logits: Mapping[str, FloatArray], temperature: Mapping[str, float]
) -> dict[str, FloatArray]:
    return {
        target.name: probabilities_from_logits(
            logits[target.name], temperature.get(target.name, 1.0), multi_label=target.multi_label
        )
        for target in targets
    }


def _compare_labels(
    target: Target, found: FloatArray, wanted: FloatArray, probabilities: FloatArray
) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Return which samples have another label than the expected one, and how far that one was ahead.

    For a multi-label target, a sample differs if any label is on the other side of 0.5, and the lead is the least
    distance of any label from 0.5.
    """
    if target.multi_label:
        return ((found > 0) != (wanted > 0)).any(axis=1), np.abs(probabilities - 0.5).min(axis=1)
    return found.argmax(axis=1) != wanted.argmax(axis=1), _lead(probabilities)


def _apart(found: Mapping[str, FloatArray], wanted: Mapping[str, FloatArray]) -> Floats:
    """Return the differences for all classes of all targets, ``(N, C)``; 1 if there is no finite answer."""
    return np.concatenate(
        [
            np.nan_to_num(np.abs(scores.astype(np.float64) - wanted[target]), nan=1.0)
            for target, scores in found.items()
        ],
        axis=1,
    )


def _lead(probabilities: FloatArray) -> FloatArray:
    """Return how far the most probable class is ahead of the next one."""
    ordered = np.sort(probabilities, axis=1)
    lead: FloatArray = ordered[:, -1] - ordered[:, -2]
    return lead
