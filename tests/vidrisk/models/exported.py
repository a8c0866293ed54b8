"""Encoders as ONNX files: the real export of a small model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbones import WINDOW
from torch import nn

from vidrisk.export.convert.graphs import export_onnx
from vidrisk.export.convert.merge import merge_trained
from vidrisk.export.trained import TrainedStage
from vidrisk.runtimes import Contract, PixelSpec, Target, TimeSpec
from vidrisk.runtimes.contract.stages import Stage, frame_encoder_stages, window_encoder_stages

FRAMES = 3
TARGET = Target(name="action", labels=("run", "sit", "fall"))


@dataclass(frozen=True)
class Exported:
    module: nn.Module
    stage: Stage
    path: Path

    def seen(self, clips: Callable[..., Any], count: int, seed: int = 0) -> Any:
        """Return ``count`` frames or windows, as the encoder takes them."""
        if self.stage.per == "window":
            return clips(count, WINDOW, seed=seed)
        return clips(count, seed=seed)[:, 0]


def contract_of(side: int, frames: int = FRAMES) -> Contract:
    return Contract(task="action", pixel=PixelSpec(side, side), time=TimeSpec(frames), targets=(TARGET,))


def export_encoder(adapted: Any, path: Path) -> Exported:
    """Merge an encoder and write its ONNX file, traced with noise."""
    module = merge_trained(adapted)
    describe = window_encoder_stages if module.sees_windows else frame_encoder_stages
    stage, _ = describe(contract_of(64, WINDOW if module.sees_windows else FRAMES), module.width)
    export_onnx(module, TrainedStage(stage, module).inputs(2), stage.inputs, stage.outputs, path)
    return Exported(module, stage, path)
