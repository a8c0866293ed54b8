"""Tests of INT8 for a stage without labels.

Exactly as many blocks stay in floating point as the required signal-to-noise ratio takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vidrisk.calibration.profiles import PROFILES
from vidrisk.export.convert.graphs import export_onnx
from vidrisk.export.quantize.by_noise import QuantizedByNoise, quantize_by_noise
from vidrisk.export.quantize.feeds import StageFeeds
from vidrisk.jobs.report_export import PhotoFrames
from vidrisk.runtimes import Contract, PixelSpec, Target, TensorSpec, TimeSpec
from vidrisk.runtimes.contract.progress import ignore_progress
from vidrisk.runtimes.contract.stages import BATCH, PIXELS, Stage

SIDE, LAYERS, LOUD = 32, 10, 5
CONTRACT = Contract(
    task="risk", pixel=PixelSpec(SIDE, SIDE), time=TimeSpec(1), targets=(Target(name="risk", labels=("a", "b")),)
)
STAGE = Stage(
    name="vision",
    per="frame",
    inputs=(TensorSpec(PIXELS, "uint8", (BATCH, SIDE, SIDE, 3)),),
    outputs=(TensorSpec("visual", "float32", (BATCH, 8, 8, 8)),),
)


class Tower(nn.Module):
    """Ten convolutions; the input of one of them is a thousand times as large at some pixels as at others."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 4, stride=4)
        self.layers = nn.ModuleList([nn.Conv2d(8, 8, 1) for _ in range(LAYERS)])
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight)  # type: ignore[arg-type]
        self.register_buffer("loudness", 10 ** (3 * torch.rand((8, 8))))

    def forward(self, frames: Tensor) -> Tensor:
        x = self.first(frames.float().permute(0, 3, 1, 2) / 64 - 1.5)
        for number, layer in enumerate(self.layers):
            x = torch.tanh(layer(x * self.loudness if number == LOUD else x))
        return x


@pytest.fixture(scope="module")
def quantized(
    clips: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[QuantizedByNoise]]:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("by-noise")
    path = root / "vision.onnx"
    export_onnx(
        Tower().eval(), (torch.zeros((2, SIDE, SIDE, 3), dtype=torch.uint8),), STAGE.inputs, STAGE.outputs, path
    )
    feeds = StageFeeds(CONTRACT, (STAGE,), STAGE, {"vision": path}, {}, PhotoFrames(clips(32, 1, SIDE)[:, 0], "photos"))

    def quantized(*least_db: float, **options: Any) -> list[QuantizedByNoise]:
        return list(
            quantize_by_noise(
                path, feeds, PROFILES["cpu"], root / "cache", ignore_progress, least_db=least_db, **options
            )
        )

    return quantized


def test_more_signal_takes_more_blocks_in_floating_point(quantized: Callable[..., list[QuantizedByNoise]]) -> None:
    (whole,) = quantized(-100.0)
    assert whole.float_blocks == ()
    (some,) = quantized(whole.sqnr_db + 0.5)
    wanted = whole.sqnr_db + 0.5, some.sqnr_db + 3
    some, more = quantized(*wanted)
    assert 0 < len(some.float_blocks) < len(more.float_blocks) < LAYERS + 1
    assert some.float_blocks == more.float_blocks[: len(some.float_blocks)]
    assert some.sqnr_db >= wanted[0] and more.sqnr_db >= wanted[1]
    kinds = [[node.op_type for node in each.model.graph.node].count("QuantizeLinear") for each in (whole, some, more)]
    assert kinds[0] > kinds[1] > kinds[2] > 0


def test_the_noisiest_block_is_the_first(quantized: Callable[..., list[QuantizedByNoise]]) -> None:
    (whole,) = quantized(-100.0)
    (one,) = quantized(whole.sqnr_db + 0.5)
    assert one.float_blocks[0] == f"layers.{LOUD}"


def test_equal_graphs_are_given_once_and_what_cannot_be_had_not_at_all(
    quantized: Callable[..., list[QuantizedByNoise]],
) -> None:
    assert len(quantized(-100.0, -50.0)) == 1
    assert quantized(98.0) == []


def test_blocks_are_not_measured_before_they_are_asked_for_or_after_the_time(
    quantized: Callable[..., list[QuantizedByNoise]], caplog: pytest.LogCaptureFixture
) -> None:
    (whole,) = quantized(-100.0, seconds=0)
    assert not caplog.records
    (some,) = quantized(whole.sqnr_db + 0.5, seconds=0)
    assert "ran out of time after 0 of 11 blocks" in caplog.text and some.sqnr_db >= whole.sqnr_db + 0.5
