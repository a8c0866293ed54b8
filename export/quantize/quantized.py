"""Result of the search for a quantised graph of one stage, and the choice of the judge that it uses."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from vidrisk.calibration.journal import Journal
from vidrisk.calibration.recipe import Trial
from vidrisk.calibration.search import BLOCK_ROUNDS, Search
from vidrisk.export.gate.judge import SearchJudge
from vidrisk.runtimes.contract.manifest import Precision


@dataclass(frozen=True)
class Quantized:
    """A quantised graph, and how it was found.

    Attributes:
        migrated: the float graph that the quantised one was made from, if the recipe migrates range; it must compute
            the same.
        runtime: that the search ran on.
        precision: of the stage.
    """

    model: onnx.ModelProto
    migrated: onnx.ModelProto | None
    runtime: str
    trials: tuple[Trial[Any], ...]
    search: Search
    precision: Precision

    @property
    def sqnr_db(self) -> float:
        """Signal-to-noise ratio of the stage's outputs by the chosen recipe, without blocks in floating point."""
        return next(trial.sqnr_db for trial in self.trials if trial.chosen)

    @property
    def is_mixed(self) -> bool:
        """Whether any of its blocks has another width than 8 bits."""
        return bool(self.search.best.float_blocks) or self.precision == "int4"


def lead_judge(
    judges: Mapping[str, SearchJudge],
    quantized: Callable[[], onnx.ModelProto],
    model: onnx.ModelProto,
    path: Path,
    journal: Journal,
) -> SearchJudge:
    """Return the judge of the runtime on which a quantised graph is fastest; it asks the others about accuracy.

    Args:
        judges: by runtime.
        quantized: makes the graph, if its timings are not in the journal.
        model: the float graph of the stage, as stored at ``path``.
        path: the float ONNX file.
        journal: measurements that are not repeated.
    """
    of_quantized = journal.value("quantised by runtime", lambda: _median_seconds(quantized(), judges))
    of_float = journal.value("float by runtime", lambda: _median_seconds(model, judges))
    fastest = min(of_quantized, key=lambda runtime: float(of_quantized[runtime]))
    return replace(
        judges[fastest],
        others=tuple(judge for runtime, judge in judges.items() if runtime != fastest),
        rival=(min(of_float, key=lambda runtime: float(of_float[runtime])), path),
    )


def _median_seconds(model: onnx.ModelProto, judges: Mapping[str, SearchJudge]) -> dict[str, float]:
    return {runtime: statistics.median(judge.seconds([model], BLOCK_ROUNDS)[0]) for runtime, judge in judges.items()}
