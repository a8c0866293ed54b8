"""Timing of all variants of an export on every runtime in turns, and whether a quantised one is proven faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vidrisk.calibration.files import graph_files
from vidrisk.export.gate.judge import Files, StageJudge
from vidrisk.export.gate.outputs import Outputs
from vidrisk.export.gate.report import GateReport, Lap, Speed
from vidrisk.runtimes.contract.bundle import VariantName
from vidrisk.runtimes.contract.manifest import WEIGHT_ONLY, Engines
from vidrisk.runtimes.paired import ratio_interval
from vidrisk.runtimes.registry import GPU_RUNTIMES, fits

ROUNDS, MOST_ROUNDS = 11, 44  # more rounds follow as long as the result is within chance
EQUAL = 0.03  # a speed proven to be within this share of floating point's is equal, and timing stops
FEW_ROUNDS = 3  # if speed is not judged
JUDGED = ("cpu", "any")  # targets
SMALL = 0.5  # share of floating point's files: worth the loss and the time if memory is short

Turns = Mapping[tuple[str, str], Sequence[float]]  # seconds per frame, by variant and runtime


def race(
    judge: StageJudge,
    files: Mapping[VariantName, Files],
    engines: Mapping[VariantName, Engines],
    stages: Sequence[str],
    known: Outputs,
    runtimes: Sequence[str],
    target: str,
) -> tuple[list[Lap], list[Speed]]:
    """Time every variant on every runtime in turns.

    Args:
        judge: runs the stages.
        files: by variant and stage.
        engines: kind of engine that a variant is for, if it is not for any.
        stages: to time.
        known: floating-point outputs.
        runtimes: to time on.
        target: speed is judged only for ``cpu`` and, for the variants for CPUs, ``any``; otherwise a few rounds are
            enough.

    Returns:
        Medians of all, and for each variant but fp32 its speed relative to fp32, each on its fastest runtime; the
        latter is empty for other targets.
    """
    sizes = {
        str(name): sum(file.stat().st_size for path in of_variant.values() for file in graph_files(path))
        for name, of_variant in files.items()
    }
    entrants: dict[tuple[str, str], tuple[str, Mapping[str, Path]]] = {
        (name, runtime): (runtime, {stage: files[name][stage] for stage in stages})
        for runtime in runtimes
        for name in files
        if fits(engines.get(name, "any"), runtime) and (target != "any" or name != "fp16")
    }  # fp16 is not for CPUs
    if target in JUDGED:
        turns = judge.seconds_per_frame(
            entrants,
            known,
            ROUNDS,
            is_decided=lambda turns: all(map(_is_decided, speeds_from_turns(turns))),
            most=MOST_ROUNDS,
        )
    else:
        turns = judge.seconds_per_frame(entrants, known, FEW_ROUNDS)
    medians = {key: float(np.median(seconds)) for key, seconds in turns.items()}
    laps = [Lap(name, runtime, seconds * 1e3, 1 / seconds, sizes[name]) for (name, runtime), seconds in medians.items()]
    return laps, speeds_from_turns(turns) if target in JUDGED else []


def speeds_from_turns(turns: Turns) -> list[Speed]:
    """Compare every variant with fp32, each on the CPU runtime with the least median; GPU runtimes do not count."""

    def best(variant: str) -> str | None:
        runtimes = [runtime for name, runtime in turns if name == variant and runtime not in GPU_RUNTIMES]
        return min(runtimes, key=lambda runtime: float(np.median(turns[variant, runtime])), default=None)

    of_float, speeds = best("fp32"), []
    for variant in dict.fromkeys(name for name, _ in turns if name != "fp32"):
        runtime = best(variant)
        if runtime and of_float:
            low, middle, high = ratio_interval(turns["fp32", of_float], turns[variant, runtime])
            speeds.append(Speed(variant, runtime, of_float, middle, low, high, len(turns[variant, runtime])))
    return speeds


def _is_decided(speed: Speed) -> bool:
    return speed.low > 1 or speed.high < 1 or (speed.low > 1 - EQUAL and speed.high < 1 + EQUAL)


def speed_refusal(report: GateReport, variant: str) -> str:
    """Return why a variant is not worth its loss: it is not faster than floating point beyond chance.

    The result is empty if it is worth it, or if this machine's speed does not matter: for a bundle that is to run on a
    GPU or a Jetson. Packed weights are worth their loss for the memory alone: such a variant may be slower if its files
    are at most ``SMALL`` times the size of floating point's, which ships beside it and runs wherever it is the faster
    one.
    """
    speed = report.speed_of(variant)
    if report.target not in JUDGED or speed is None or speed.is_faster:
        return ""
    if WEIGHT_ONLY.isdisjoint(report.precision.get(variant, {}).values()):
        return f"{variant} is not faster than floating point: {speed_in_words(speed)}"
    return slowness_in_words(report, speed) if speed.is_slower and compare_sizes(report, variant) > SMALL else ""


def slowness_in_words(report: GateReport, speed: Speed) -> str:
    """Describe the speed and size of a slower variant relative to floating point."""
    share = 100 * compare_sizes(report, speed.variant)
    return f"{speed.variant} is slower than floating point, and {share:.0f} % as large: {speed_in_words(speed)}"


def compare_sizes(report: GateReport, variant: str) -> float:
    """Divide the bytes of a variant's files by those of floating point's."""
    sizes = {lap.variant: lap.bytes for lap in report.laps}
    return sizes[variant] / sizes["fp32"]


def speed_in_words(speed: Speed) -> str:
    return (
        f"{speed.ratio:.2f} × its speed (95 % interval {speed.low:.2f} to {speed.high:.2f}, {speed.turns} paired "
        f"turns; {speed.variant} on {speed.runtime}, fp32 on {speed.float_runtime})"
    )
