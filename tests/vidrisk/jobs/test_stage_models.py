"""A family with its own ``build``, which is not an encoder with a head, goes from training to inference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vidrisk.data import load_table
from vidrisk.export.trained import ExportOptions
from vidrisk.inference.model import open_classifier
from vidrisk.jobs.evaluate import evaluate
from vidrisk.jobs.export import export_run
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.models.classifier import HEAD
from vidrisk.models.config import OptimSettings, TrainConfig, config_from_options
from vidrisk.models.families import FAMILIES, Family
from vidrisk.models.trainable import ModelStage, TrainableModel
from vidrisk.models.weights import load_tensors, save_tensors
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.specs import PixelSpec, TensorSpec
from vidrisk.runtimes.contract.stages import BATCH, PIXELS, Stage
from vidrisk.runtimes.registry import file_runtimes
from vidrisk.train.train import train_run

FRAMES, WIDTH, TOKENS, SIDE_PX = 4, 8, 3, 16


class Vision(nn.Module):
    """A module that maps frames ``uint8 (N, 16, 16, 3)`` to the mean colours of their quarters ``(N, 12)``."""

    def forward(self, frames: Tensor) -> Tensor:
        pixels = frames.to(torch.float32).permute(0, 3, 1, 2) / 255
        return nn.functional.avg_pool2d(pixels, SIDE_PX // 2).flatten(1)


class Merger(nn.Module):
    """A module that merges two frames ``(G, 2, 12)`` into one token ``(G, 8)``, as Qwen's vision tower does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(24, WIDTH)

    def forward(self, colours: Tensor) -> Tensor:
        token: Tensor = torch.tanh(self.linear(colours.flatten(1)))
        return token


class Text(nn.Module):
    """A module that maps tokens ``(B, T / 2, 8)``, followed by a prompt ``(3, 8)``, to a state ``(B, 8)``.

    The state is taken at the last token of the prompt.
    """

    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor, prompt: Tensor) -> Tensor:
        whole = torch.cat([tokens, prompt.expand(tokens.shape[0], -1, -1)], dim=1)
        weights = torch.softmax(torch.matmul(self.key(whole), whole[:, -1:].transpose(1, 2)), dim=1)
        return (weights * whole).sum(dim=1)


class Toy(TrainableModel):
    """A small model with the stages of a vision-language classifier."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.vision, self.merger, self.text, self.head = Vision(), Merger(), Text(), nn.Linear(WIDTH, classes)
        self.register_buffer("prompt", torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)))

    @property
    def has_frozen_part(self) -> bool:
        return True

    def lower(self, frames: Tensor) -> Tensor:
        colours: Tensor = self.vision(frames.flatten(0, 1))
        return colours.reshape(*frames.shape[:2], -1)

    def features(self, inputs: Tensor) -> Tensor:
        colours = self.lower(inputs) if inputs.dtype == torch.uint8 else inputs
        tokens = self.merger(colours.reshape(-1, 2, 12)).reshape(len(colours), -1, WIDTH)
        state: Tensor = self.text(tokens, self.prompt)
        return state

    def logits(self, features: Tensor) -> tuple[Tensor, ...]:
        return (self.head(features),)

    def standardise(self, batches: Callable[[], Iterable[Tensor]]) -> None:
        assert all(self.features(inputs).shape[1] == WIDTH for inputs in batches())

    def adjust_classifiers(self, changes: Sequence[tuple[float, Tensor]]) -> None:
        for (scale, more), classifier in zip(changes, [self.head], strict=True):
            classifier.weight.data *= scale
            classifier.bias.data = classifier.bias.data * scale + more

    def adapt(self, config: TrainConfig) -> None:
        """Do nothing, because the whole model is trained."""

    def merge(self) -> None:
        raise AssertionError("starts from no other run")

    def parameter_groups(self, optim: OptimSettings) -> list[dict[str, Any]]:
        adapted = [*self.merger.parameters(), *self.text.parameters()]
        return [
            {"name": "all", "params": adapted, "lr": 0.01},
            {"name": "head", "params": list(self.head.parameters()), "lr": optim.head_lr},
        ]

    def checkpoint_gradients(self) -> None:
        raise AssertionError("not asked for")

    def stages(self, contract: Contract) -> tuple[ModelStage, ...]:
        def floats(name: str, *shape: int | str) -> TensorSpec:
            return TensorSpec(name, "float32", shape)

        frames = TensorSpec(PIXELS, "uint8", (BATCH, *contract.pixel.frame_shape))
        prompt = floats("prompt", TOKENS, WIDTH)
        assert isinstance(self.prompt, Tensor)
        return (
            ModelStage(
                Stage(name="vision", per="frame", inputs=(frames,), outputs=(floats("colours", BATCH, 12),)),
                self.vision,
            ),
            ModelStage(
                Stage(
                    name="merger",
                    per="group",
                    group=2,
                    inputs=(floats("colours", BATCH, 2, 12),),
                    outputs=(floats("tokens", BATCH, WIDTH),),
                ),
                self.merger,
            ),
            ModelStage(
                Stage(
                    name="text",
                    per="window",
                    inputs=(floats("tokens", BATCH, contract.frames // 2, WIDTH), prompt),
                    outputs=(floats("state", BATCH, WIDTH),),
                    constants=("prompt",),
                ),
                self.text,
                {"prompt": self.prompt.numpy()},
            ),
            ModelStage(
                Stage(name="head", per="window", inputs=(floats("state", BATCH, WIDTH),), outputs=contract.answers()),
                self.head,
            ),
        )

    def save(self, folder: Path) -> None:
        save_tensors(self.state_dict(), folder / HEAD)

    def load_backbone(self, folder: Path) -> None:
        """Do nothing, because all weights are in one file."""

    def load_head(self, folder: Path) -> None:
        self.load_state_dict(load_tensors(folder / HEAD))


def build_toy(config: TrainConfig, contract: Contract, *, local_only: bool) -> Toy:
    return Toy(len(contract.targets[0].labels))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    def load(*_: object) -> nn.Module:
        raise AssertionError("a family with a build of its own is not loaded as an encoder")

    family = Family(
        "toy",
        "avg",
        ("auto", "avg"),
        pixel=lambda source: PixelSpec(SIDE_PX, SIDE_PX),
        load=load,
        is_embedded=True,
        build=build_toy,
    )
    monkeypatch.setitem(FAMILIES, "toy", family)
    yield "toy"


def test_from_train_to_infer(toy: str, clip_folder: Path, tmp_path: Path) -> None:
    table = load_table(clip_folder, "action")
    settings = {
        "frames": FRAMES,
        "lora.last_blocks": 0,
        "optim.epochs": 12,
        "optim.batch_size": 6,
        "optim.head_lr": 0.05,
        "precision": "fp32",
    }
    run = train_run(table, config_from_options(backbone=toy, settings=settings), tmp_path / "run")
    options = ExportOptions(
        int8=True, quantize=frozenset({"text"}), max_drop=50, max_confidence_drop=100, search_s=0, allow_drop=True
    )
    bundle, report = export_run(run.root, tmp_path / "b", options)
    assert [(stage.name, stage.per, stage.group) for stage in bundle.stages] == [
        ("vision", "frame", 1),
        ("merger", "group", 2),
        ("text", "window", 1),
        ("head", "window", 1),
    ]
    assert bundle.constants()["prompt"].shape == (TOKENS, WIDTH)
    quantized = next(name for name in bundle.passed if name != "fp32")
    assert bundle.manifest.variants[quantized].precision["text"] in ("int8", "mixed")
    assert all(hop.passed for hop in report.hops)
    with open_classifier(run.root) as classifier:
        expected = evaluate(classifier, table, InferSettings(workers=1))
    assert expected.metrics["action"].top1 > 0.6  # it has learnt
    for runtime in file_runtimes():
        for variant, tolerance in (("fp32", 1e-4), (quantized, 0.2)):
            with open_classifier(bundle.root, runtime=runtime, variant=variant, threads=1) as classifier:
                found = evaluate(classifier, table, InferSettings(workers=1)).probabilities["action"]
            np.testing.assert_allclose(
                found, expected.probabilities["action"], atol=tolerance, err_msg=f"{runtime} {variant}"
            )
