"""One runtime and variant against what is expected of it.

Engines round differently, and the more so, the fewer bits a variant has. What may differ is a matter of its precision,
and of how far the runtimes were apart that judged it when it was exported.
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
# Lowest precision → what some layer must run in.
ASKED: dict[Precision, str] = {
    "fp32": FLOAT32,
    "fp16": FLOAT16,
    "int8": INT8,
    "mixed": INT8,
    "int8-weight-only": INT8,
    "int4": INT4,
}
SPREADS = 2.0  # that an engine may be apart from the reference, of what those were that judged at export


@dataclass(frozen=True)
class Tolerance:
    """What may differ in a sample.

    Attributes:
        largest: any of its probabilities.
        logits: its logits, as ``logit_errors`` has them: probabilities near 0 and 1 hide much.
    """

    largest: float
    logits: float


# Measured with EfficientNet-Lite0 on ONNX Runtime and OpenVINO on an x86 processor, of a probability and of the logits:
# 0.00002 and 0.0001 in fp32, 0.006 and 0.011 where every node rounds to fp16, 0.06 and 0.14 in int8 and mixed. GPUs
# round in other places. Beside packed weights, an engine may round activations to 8 bits or leave them as they are; in
# INT8, engines round them both.
_INTEGERS = Tolerance(0.15, 0.3)
TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(0.005, 0.005),
    "fp16": Tolerance(0.05, 0.05),
    **dict.fromkeys(("int8-weight-only", "int8", "mixed", "int4"), _INTEGERS),
}
# Whatever the spread was. Where runtimes are far apart at the decision boundary of a model that is sure of itself, its
# logits judge alone; beyond this, they are another model's.
MOST = Tolerance(1.0, 0.8)


@dataclass(frozen=True)
class Answers:
    """What a runtime has answered to the golden samples: logits ``float32 (N, C)`` by target."""

    logits: Mapping[str, FloatArray]
    layers: Layers


@dataclass(frozen=True)
class Compared:
    """Answers against those that are expected, all but ``agreement`` and ``mean`` by sample.

    Attributes:
        agreement: share of labels that are the expected ones, of the target that has fewest.
        mean: difference of a probability, over samples, classes and targets.
        shift: largest difference of a probability, as ``infer`` would give it, with the temperatures of the manifest.
        logit_errors: the largest of the targets.
        unanswered: the answer is not finite.
        wrong: out of tolerance, with the temperatures that the golden samples were sealed with: the engine is to blame.
    """

    agreement: float
    mean: float
    shift: Floats
    logit_errors: Floats
    unanswered: npt.NDArray[np.bool_]
    wrong: npt.NDArray[np.bool_]


def answers_of(classifier: Classifier, golden: Golden) -> Answers:
    """Ask a classifier as ``infer`` does.

    Raises:
        RuntimeFailure: the engine fails.
    """
    logits = classifier.logits_from_frames(golden.frames, BATCH)
    try:
        layers = classifier.layers()
    except (
        Exception
    ) as error:  # what engines raise where they are asked about themselves; their answers count all the same
        layers = Layers(unproved=" ".join(str(error).split()) or type(error).__name__)
    return Answers(logits, layers)


def tolerance_of(precision: Precision, expected: Expected) -> Tolerance:
    """What may differ where this is the lowest precision, on a runtime that is not the one that the expected answers are from."""
    base, spreads = TOLERANCES[precision], expected.spread.values()
    return Tolerance(
        min(max([base.largest, *(SPREADS * each.largest for each in spreads)]), MOST.largest),
        min(max([base.logits, *(SPREADS * each.logits for each in spreads)]), MOST.logits),
    )


def compare_answers(
    answers: Answers, golden: Golden, name: VariantName, variant: Variant, targets: Sequence[Target]
) -> Compared:
    """Hold answers against those that are expected.

    A sample is wrong where a probability or its logits are out of tolerance, where its label is another one although
    the expected one was ahead by more than the tolerance, and where it has no finite answer.
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
        _decided(target, found[target.name], wanted_logits[target.name], wanted[target.name]) for target in targets
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


def _decided(
    target: Target, found: FloatArray, wanted: FloatArray, probabilities: FloatArray
) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Tell which samples have another label than the expected one, and how far that one was ahead.

    Of labels of which any number may hold, one is another where it is on the other side of 0.5, and ahead by the least
    of all.
    """
    if target.multi_label:
        return ((found > 0) != (wanted > 0)).any(axis=1), np.abs(probabilities - 0.5).min(axis=1)
    return found.argmax(axis=1) != wanted.argmax(axis=1), _lead(probabilities)


def _apart(found: Mapping[str, FloatArray], wanted: Mapping[str, FloatArray]) -> Floats:
    """Differences of all classes of all targets, ``(N, C)``; 1 where there is no finite answer."""
    return np.concatenate(
        [
            np.nan_to_num(np.abs(scores.astype(np.float64) - wanted[target]), nan=1.0)
            for target, scores in found.items()
        ],
        axis=1,
    )


def _lead(probabilities: FloatArray) -> FloatArray:
    """How far the most probable class is ahead of the next one."""
    ordered = np.sort(probabilities, axis=1)
    lead: FloatArray = ordered[:, -1] - ordered[:, -2]
    return lead
