"""Fixtures with one export per graph and session, because the exporter takes seconds each time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from backbones import WINDOW
from exported import FRAMES, TARGET, Exported, contract_of
from torch import nn

from vidrisk.export.convert.graphs import export_onnx
from vidrisk.export.gate.outputs import Validation
from vidrisk.export.trained import Trained, TrainedStage
from vidrisk.models.heads import Head
from vidrisk.runtimes import Contract, PixelSpec, Target, TimeSpec
from vidrisk.runtimes.contract.stages import frame_encoder_stages, window_encoder_stages


@pytest.fixture(scope="session")
def exported_head(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Exported]:
    """Return a function that gives a head and its ONNX file by the kind of head and the number of frames.

    The head has two targets and reads features of width 24.
    """
    folder = tmp_path_factory.mktemp("heads")

    @functools.cache
    def make(kind: Any, frames: int) -> Exported:
        torch.manual_seed(0)
        targets = (
            Target(name="defect", labels=("crack", "ok")),
            Target(name="level", labels=("1", "2", "3"), ordered=True),
        )
        contract = Contract(task="risk", pixel=PixelSpec(8, 8), time=TimeSpec(frames), targets=targets)
        head = Head(kind, width=24, frames=frames, targets=targets, hidden=16, dropout=0.2)
        head.standardise_by([torch.randn(50, 24) * 3 + 1])
        untrained_no_more(head)
        _, stage = frame_encoder_stages(contract, 24)
        path = folder / f"{kind}{frames}.onnx"
        export_onnx(head, [torch.zeros(2, frames, 24)], stage.inputs, stage.outputs, path)
        return Exported(head.eval(), stage, path)

    return make


def untrained_no_more(head: Head) -> None:
    """Set random weights like those that training leaves, since a fresh head gives every input the same answer."""
    for classifier in head.classifiers:
        nn.init.normal_(classifier.weight)
        nn.init.normal_(classifier.bias)


class SmallEncoder(nn.Module):
    """An encoder of four convolutions and an average, which exports in a second.

    ``outlier`` scales one channel before the last convolution up, and that convolution's weights for it down. The
    function stays the same in floating point, but in 8 bits this channel leaves the others almost no resolution.
    """

    def __init__(self, outlier: float) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.ModuleList(nn.Conv2d(inputs, 12, 3, stride=2, padding=1) for inputs in (3, 12, 12, 12))
        third, last = self.layers[2], self.layers[3]
        with torch.no_grad():
            third.weight[0] *= outlier
            third.bias[0] *= outlier
            last.weight[:, 0] /= outlier

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        x = frames.float().permute(0, 3, 1, 2) / 64 - 1.5
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x.mean(dim=(2, 3))


@pytest.fixture(scope="session")
def small_encoder() -> Callable[..., nn.Module]:
    def make(outlier: float = 1.0) -> nn.Module:
        return SmallEncoder(outlier)

    return make


@pytest.fixture(scope="session")
def make_trained(clips: Callable[..., Any]) -> Callable[..., tuple[Trained, Validation]]:
    """Return a function that turns an encoder into the objects that an application passes to the export.

    The head is standardised by the features. The truth is taken from its answers, so that every sample is right.
    An encoder that reads windows gets whole windows.
    """

    def make(encoder: nn.Module, side: int, samples: int = 24) -> tuple[Trained, Validation]:
        torch.manual_seed(5)
        sees_windows = getattr(encoder, "sees_windows", False)
        frames = clips(samples, WINDOW if sees_windows else FRAMES, side)
        seen = torch.from_numpy(frames)
        with torch.inference_mode():
            features = encoder.eval()(seen if sees_windows else seen.flatten(0, 1))
        moments = None if sees_windows else FRAMES
        head = Head("linear", width=features.shape[1], frames=moments, targets=(TARGET,), hidden=16, dropout=0.1)
        head.standardise_by([features])
        untrained_no_more(head)
        with torch.inference_mode():
            logits = head.eval()(features if sees_windows else features.unflatten(0, (samples, FRAMES)))[0].numpy()
        contract = contract_of(side, frames.shape[1])
        describe = window_encoder_stages if sees_windows else frame_encoder_stages
        stages = zip(describe(contract, features.shape[1]), (encoder, head), strict=True)
        trained = Trained(tuple(TrainedStage(stage, module) for stage, module in stages), contract)
        truth = np.asarray(logits.argmax(1), np.int64)
        return trained, Validation(frames, {"action": truth}, [f"clip {i}" for i in range(samples)])

    return make
