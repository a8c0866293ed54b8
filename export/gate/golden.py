"""Golden samples, and every variant's answers to them, to be sealed in the bundle.

Samples of every class of every target are chosen in turns: the one that the float model is surest of, then the one
nearest to its decision boundary, and so on. File sizes are bounded, so later samples may not fit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from vidrisk.calibration.files import graph_files
from vidrisk.export.gate.judge import REFERENCE, Files
from vidrisk.export.gate.keeper import Gatekeeper
from vidrisk.export.gate.outputs import FloatArray, Ints, Outputs, Validation
from vidrisk.runtimes.contract.bundle import VariantName, sha256_of
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.manifest import Engines
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits
from vidrisk.runtimes.golden import (
    GOLDEN,
    Description,
    Expected,
    Rows,
    Spread,
    logit_errors,
    most_samples,
    webp_from_frame,
    write_golden,
)
from vidrisk.runtimes.registry import engine_version

log = logging.getLogger(__name__)

PHOTOS_BYTES, CLIPS_BYTES = 2_000_000, 8_000_000  # of pictures; one sample is included whatever its size


def golden_files(
    gate: Gatekeeper,
    variants: Mapping[VariantName, Files],
    engines: Mapping[VariantName, Engines],
    logits: Mapping[str, FloatArray],
    folder: Path,
) -> list[Path]:
    """Write golden samples from the validation samples; return the file, or nothing if a single sample is too large.

    Args:
        gate: holds the samples, and the variants' temperatures in its report.
        variants: that are shipped.
        engines: kind of engine that a variant is for, if it is not for any.
        logits: of the float model, by target, which determine the choice.
        folder: to write to.

    Raises:
        RuntimeFailure: a runtime that worked before fails now.
    """
    judge = gate.judge
    validation, contract = judge.validation, judge.contract
    most = most_samples(contract)
    if not most:
        log.warning("no golden samples: a single one has %d frames", contract.frames)
        return []
    gate.on_progress("sealing golden samples", 0, 1)
    chosen = rank_samples(contract.targets, logits, validation.truth)[:most]
    pictures = _pictures(validation, chosen, PHOTOS_BYTES if contract.frames == 1 else CLIPS_BYTES)
    few = replace(judge, validation=validation.at(np.array(chosen[: len(pictures)])))
    reference = REFERENCE if REFERENCE in gate.runtimes else gate.runtimes[0]
    described = {}
    for done, (name, files) in enumerate(variants.items()):
        gate.on_progress("sealing golden samples", done, len(variants))
        runtimes = gate.runtimes_for(engines.get(name, "any"))
        outputs = {runtime: few.onnx(runtime, files) for runtime in runtimes}
        described[name] = _make_expected(contract.targets, files, outputs, reference, gate.report.temperature[name])
    told = Description(
        contract=contract.digest,
        runtime=reference,
        engine=engine_version(reference) or "",
        samples=len(pictures),
        variants=described,
    )
    write_golden(folder / GOLDEN, told, pictures)
    return [folder / GOLDEN]


def rank_samples(targets: Sequence[Target], logits: Mapping[str, FloatArray], truth: Mapping[str, Ints]) -> list[int]:
    """Return all samples in order of preference: class after class of each target, sure and unsure in turns."""
    groups = []
    for target in targets:
        of_target, known = logits[target.name], truth[target.name]
        if target.multi_label:
            margins = np.abs(of_target).min(axis=1)
            every = [np.flatnonzero(known[:, label] == 1) for label in range(len(target.labels))]
            every.append(np.flatnonzero((known <= 0).all(axis=1)))
        else:
            two = np.sort(of_target, axis=1)[:, -2:]
            margins = two[:, 1] - two[:, 0]
            every = [np.flatnonzero(known == label) for label in np.unique(known)]
        for members in every:
            nearest = members[np.argsort(margins[members], kind="stable")]
            half = len(nearest) // 2
            turns = zip_longest(nearest[half:][::-1], nearest[:half])  # the surest, the nearest, the second surest …
            groups.append([int(sample) for pair in turns for sample in pair if sample is not None])
    return list(dict.fromkeys(sample for round in zip_longest(*groups) for sample in round if sample is not None))


def _pictures(validation: Validation, chosen: Sequence[int], most_bytes: int) -> list[list[bytes]]:
    """Return the compressed frames of as many samples as fit."""
    pictures: list[list[bytes]] = []
    held = 0
    for sample in chosen:
        moments = [webp_from_frame(frame) for frame in validation.frames[sample]]
        held += sum(map(len, moments))
        if pictures and held > most_bytes:
            break
        pictures.append(moments)
    return pictures


def _make_expected(
    targets: Sequence[Target],
    files: Files,
    outputs: Mapping[str, Outputs],
    reference: str,
    temperature: Mapping[str, float],
) -> Expected:
    probabilities = {
        runtime: {
            target.name: probabilities_from_logits(
                found.logits[target.name], temperature.get(target.name, 1.0), multi_label=target.multi_label
            )
            for target in targets
        }
        for runtime, found in outputs.items()
    }
    spread = {}
    for runtime, of_runtime in probabilities.items():
        if runtime != reference:
            apart = [np.abs(scores - probabilities[reference][target]) for target, scores in of_runtime.items()]
            errors = [
                logit_errors(
                    outputs[runtime].logits[target.name],
                    outputs[reference].logits[target.name],
                    multi_label=target.multi_label,
                )
                for target in targets
            ]
            spread[runtime] = Spread(
                largest=float(max(each.max() for each in apart)),
                logits=float(np.max(errors)),
                mean=float(np.mean([each.mean() for each in apart])),
            )
    return Expected(
        files={file.name: sha256_of(file) for path in files.values() for file in graph_files(path)},
        temperature=dict(temperature),
        logits={target: _rows(logits) for target, logits in outputs[reference].logits.items()},
        probabilities={target: _rows(scores) for target, scores in probabilities[reference].items()},
        spread=spread,
    )


def _rows(array: FloatArray) -> Rows:
    """Round numbers to six digits: more would only take space."""
    return tuple(tuple(float(f"{value:.6g}") for value in row) for row in array)
