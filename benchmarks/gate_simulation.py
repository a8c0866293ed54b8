"""Simulate the gate's decisions for models with known accuracy, by number of samples.

    python benchmarks/gate_simulation.py [--draws N]

Each of 1,000 draws per size goes through the real search. A quantized model with a known true drop and agreement is
drawn sample by sample, together with a slower mixed point. As in an export, the search chooses on one part of the
samples and the gate judges on the others. The result is how often full INT8 ships, the mixed point ships, or nothing
does.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from machine import describe_machine

from vidrisk.calibration.journal import Journal
from vidrisk.calibration.points import Budget, Outcome
from vidrisk.calibration.search import search_precision
from vidrisk.export.gate.outputs import Validation
from vidrisk.export.gate.selection import agreement_aim, separate_samples
from vidrisk.export.quantize.variant import MOST_REFUSALS

RESULT = Path(__file__).parent / "results" / "gate_simulation.json"
SIZES = (16, 32, 64, 128, 199, 200, 256, 512, 1024)
BLOCKS = {"harmful": ("harmful",), "harmless": ("harmless",)}
INT8_TIME, MIXED_TIME = 0.55, 0.8  # of floating point's
NOISE = 0.05  # of a timing


@dataclass(frozen=True)
class Truth:
    """True behaviour of a point, as shares of samples.

    The shares are of samples whose correct answer becomes wrong, whose wrong answer becomes correct, and whose wrong
    answer becomes another wrong one.
    """

    lost: float
    gained: float
    other: float

    def draw(self, samples: int, rng: np.random.Generator) -> npt.NDArray[np.str_]:
        """Draw one sign per sample: ``-`` lost, ``+`` gained, ``x`` for another wrong answer, ``=`` for no change."""
        signs: npt.NDArray[np.str_] = rng.choice(
            ["-", "+", "x", "="],
            samples,
            p=[self.lost, self.gained, self.other, 1 - self.lost - self.gained - self.other],
        )
        return signs


@dataclass(frozen=True)
class Case:
    name: str
    max_drop: float
    int8: Truth
    mixed: Truth


GOOD = Truth(0.003, 0.002, 0.001)
CASES = (
    Case("drop 1.7 of a budget of 10, agreement 97.5 %", 10, Truth(0.02, 0.003, 0.002), GOOD),
    Case("drop 0.5 of a budget of 2, agreement 98.5 %", 2, Truth(0.0085, 0.0035, 0.003), GOOD),
    Case("drop 0.2 of a budget of 1, agreement 99 %", 1, Truth(0.005, 0.003, 0.002), GOOD),
    Case("drop 4 over a budget of 1, a good mixed point", 1, Truth(0.045, 0.005, 0.01), GOOD),
    Case("drop 4 over a budget of 1, no better point", 1, Truth(0.045, 0.005, 0.01), Truth(0.045, 0.005, 0.01)),
)


class DrawnJudge:
    """A judge that answers the search from the drawn samples. One of two blocks causes the whole drop."""

    def __init__(self, int8: npt.NDArray[np.str_], mixed: npt.NDArray[np.str_], rng: np.random.Generator) -> None:
        self.int8, self.mixed, self.rng = int8, mixed, rng

    def probe(self, model: onnx.ModelProto) -> tuple[float, float]:
        return (0.01, 0.01) if "harmful" in model.graph.name else (1.0, 0.1)

    def outcome(self, model: onnx.ModelProto) -> Outcome:
        return outcome_of(self.int8 if not model.graph.name else self.mixed)

    def seconds(self, models: Sequence[onnx.ModelProto | None], rounds: int) -> list[list[float]]:
        middles = [1.0 if model is None else MIXED_TIME if model.graph.name else INT8_TIME for model in models]
        return [(middle * np.exp(self.rng.normal(0, NOISE, rounds))).tolist() for middle in middles]


def outcome_of(signs: npt.NDArray[np.str_]) -> Outcome:
    return Outcome("".join(np.where(signs == "=", "1", "0")), ("".join(np.where(signs == "x", "=", signs)),))


def name_point(keep_float: Collection[str]) -> onnx.ModelProto:
    return onnx.ModelProto(graph=onnx.GraphProto(name=" ".join(sorted(keep_float))))


def decide(case: Case, samples: int, rng: np.random.Generator) -> str:
    """Simulate one export on drawn samples; return ``int8``, ``mixed`` or ``refused``."""
    int8, mixed = case.int8.draw(samples, rng), case.mixed.draw(samples, rng)
    parts = separate_samples(
        Validation(np.zeros((samples, 1, 1, 1, 3), np.uint8), {"a": rng.integers(0, 4, samples)}, [""] * samples)
    )
    refused: set[tuple[str, ...]] = set()
    while True:
        budget = Budget(case.max_drop, agreement_aim(case.max_drop), 1e9, is_strict=bool(refused))
        judge = DrawnJudge(int8[parts.choosing], mixed[parts.choosing], rng)
        best = search_precision(
            name_point, BLOCKS, judge, budget, Journal(), lambda what, done, total: None, refused
        ).best.float_blocks
        judged = outcome_of((mixed if best else int8)[parts.judging])
        if judged.drop_points <= case.max_drop + 1e-9:
            return "mixed" if best else "int8"
        if best in refused or len(refused) == MOST_REFUSALS:
            return "refused"
        refused.add(best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args().draws
    result: dict[str, Any] = {
        "draws": draws,
        "int8_time": INT8_TIME,
        "mixed_time": MIXED_TIME,
        "cases": {},
        "machine": describe_machine(),
    }
    for case in CASES:
        rows = result["cases"][case.name] = {}
        for samples in SIZES:
            rng = np.random.default_rng(samples)
            counts = Counter(decide(case, samples, rng) for _ in range(draws))
            rows[samples] = {name: round(counts[name] / draws, 3) for name in ("int8", "mixed", "refused")}
            print(f"{case.name}: {samples} samples: {rows[samples]}", flush=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
