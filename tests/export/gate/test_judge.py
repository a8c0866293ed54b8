"""Tests of the judge of a search: it evaluates a graph on every runtime, at one temperature.

This is the temperature that would ship with the graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from vidrisk.export.gate.judge import SearchJudge, StageJudge
from vidrisk.export.gate.outputs import Outputs, Validation
from vidrisk.runtimes.contract.contract import Contract, PixelSpec, Target
from vidrisk.runtimes.contract.stages import frame_encoder_stages

CONTRACT = Contract(task="risk", pixel=PixelSpec(2, 2), targets=(Target(name="defect", labels=("a", "b", "c")),))
TRUTH = np.arange(60) % 3
LOGITS = (np.random.default_rng(1).normal(size=(60, 3)) + 3 * np.eye(3)[TRUTH]).astype(np.float32)
STAGES = StageJudge(
    CONTRACT,
    frame_encoder_stages(CONTRACT, 2),
    Validation(np.zeros((60, 1, 2, 2, 3), np.uint8), {"defect": TRUTH}, [str(i) for i in range(60)]),
    {},
)
EXACT = Outputs({"features": np.zeros((60, 2), np.float32)}, {"defect": LOGITS}, 1.0)


@dataclass(frozen=True)
class ScalingJudge(SearchJudge):
    """A judge with a runtime on which a quantized graph's logits are a multiple of the floating-point logits."""

    scale: float = 1.0

    def _outputs(self, model: onnx.ModelProto, samples: Validation, given: Outputs) -> Outputs:
        return replace(EXACT, logits={"defect": LOGITS * np.float32(self.scale)})


def judge(scale: float, others: tuple[SearchJudge, ...] = ()) -> ScalingJudge:
    files = {"head": Path("head.onnx")}
    return ScalingJudge(STAGES, "onnxruntime", "encoder", files, EXACT, EXACT, {"defect": 1.0}, others, scale=scale)


@pytest.mark.parametrize(
    ("own", "other", "collapses"), [(0.3, 0.3, False), (1.0, 1.0, False), (1.0, 0.3, True), (0.3, 1.0, True)]
)
def test_a_scale_is_harmless_only_where_every_runtime_has_it(own: float, other: float, collapses: bool) -> None:
    result = judge(own, (judge(other),)).outcome(onnx.ModelProto())
    assert (result.agreement, result.drop_points) == (1.0, 0.0)
    assert (result.confidence_points > 5) == collapses
