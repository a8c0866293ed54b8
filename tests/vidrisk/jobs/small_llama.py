"""A small vision-language classifier.

The colours of a frame become a token, and a real Llama reads a prompt around the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from vidrisk.models.classifier import HEAD
from vidrisk.models.config import OptimSettings, TrainConfig
from vidrisk.models.families import Family
from vidrisk.models.trainable import ModelStage, TrainableModel
from vidrisk.models.weights import load_tensors, save_tensors
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.specs import PixelSpec, TensorSpec
from vidrisk.runtimes.contract.stages import BATCH, PIXELS, Stage

WIDTH, SIDE_PX = 64, 16
LAYERS = 3


class Vision(nn.Module):
    """Vision stage that maps frames ``uint8 (N, 16, 16, 3)`` to one token each, ``(N, 64)``."""

    def __init__(self) -> None:
        super().__init__()
        self.projector = nn.Sequential(nn.Linear(12, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, frames: Tensor) -> Tensor:
        pixels = frames.to(torch.float32).permute(0, 3, 1, 2) / 255
        token: Tensor = self.projector(nn.functional.avg_pool2d(pixels, SIDE_PX // 2).flatten(1) * 4 - 2)
        return token


class Text(nn.Module):
    """Text stage that maps tokens ``(B, T, 64)`` to a state ``(B, 64)``.

    The tokens lie between the embeddings of a prompt. The state is taken at the last position.
    """

    def __init__(self) -> None:
        super().__init__()
        self.model = LlamaModel(
            LlamaConfig(
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                num_hidden_layers=LAYERS,
                vocab_size=8,
                num_attention_heads=4,
                num_key_value_heads=2,
                use_cache=False,
            )
        )

    def forward(self, tokens: Tensor, before: Tensor, after: Tensor) -> Tensor:
        batch = tokens.shape[0]
        whole = torch.cat([before.expand(batch, -1, -1), tokens, after.expand(batch, -1, -1)], dim=1)
        state: Tensor = self.model(inputs_embeds=whole).last_hidden_state[:, -1]
        return state


class SmallLlama(TrainableModel):
    """Small vision-language model of which all parameters are trained.

    The text stage has packed weights where it is quantized.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vision, self.text, self.head = Vision(), Text(), nn.Linear(WIDTH, classes)
        generator = torch.Generator().manual_seed(1)
        self.register_buffer("before", torch.randn(3, WIDTH, generator=generator))
        self.register_buffer("after", torch.randn(2, WIDTH, generator=generator))

    @property
    def has_frozen_part(self) -> bool:
        return False

    def lower(self, frames: Tensor) -> Tensor:
        return frames

    def features(self, inputs: Tensor) -> Tensor:
        tokens = self.vision(inputs.flatten(0, 1)).reshape(*inputs.shape[:2], -1)
        state: Tensor = self.text(tokens, self.before, self.after)
        return state

    def logits(self, features: Tensor) -> tuple[Tensor, ...]:
        return (self.head(features),)

    def standardise(self, batches: Callable[[], Iterable[Tensor]]) -> None:
        """Keep the initial state of the model."""

    def adjust_classifiers(self, changes: Sequence[tuple[float, Tensor]]) -> None:
        for (scale, more), classifier in zip(changes, [self.head], strict=True):
            classifier.weight.data *= scale
            classifier.bias.data = classifier.bias.data * scale + more

    def adapt(self, config: TrainConfig) -> None:
        """Do nothing, as all parameters are trained."""

    def merge(self) -> None:
        raise AssertionError("starts from no other run")

    def parameter_groups(self, optim: OptimSettings) -> list[dict[str, Any]]:
        below = [*self.vision.parameters(), *self.text.parameters()]
        return [
            {"name": "all", "params": below, "lr": 1e-3},
            {"name": "head", "params": list(self.head.parameters()), "lr": optim.head_lr},
        ]

    def checkpoint_gradients(self) -> None:
        raise AssertionError("not asked for")

    def stages(self, contract: Contract) -> tuple[ModelStage, ...]:
        def floats(name: str, *shape: int | str) -> TensorSpec:
            return TensorSpec(name, "float32", shape)

        frames = TensorSpec(PIXELS, "uint8", (BATCH, *contract.pixel.frame_shape))
        prompt = {name: np.asarray(getattr(self, name)) for name in ("before", "after")}
        inputs = floats("tokens", BATCH, contract.frames, WIDTH), floats("before", 3, WIDTH), floats("after", 2, WIDTH)
        state = floats("state", BATCH, WIDTH)
        return (
            ModelStage(
                Stage(name="vision", per="frame", inputs=(frames,), outputs=(floats("tokens", BATCH, WIDTH),)),
                self.vision,
            ),
            ModelStage(
                Stage(name="text", per="window", inputs=inputs, outputs=(state,), constants=("before", "after")),
                self.text,
                prompt,
                quantization="weights",
            ),
            ModelStage(Stage(name="head", per="window", inputs=(state,), outputs=contract.answers()), self.head),
        )

    def save(self, folder: Path) -> None:
        save_tensors(self.state_dict(), folder / HEAD)

    def load_backbone(self, folder: Path) -> None:
        """Do nothing, as all parameters are stored in one file."""

    def load_head(self, folder: Path) -> None:
        self.load_state_dict(load_tensors(folder / HEAD))


def build_small_llama(config: TrainConfig, contract: Contract, *, local_only: bool) -> SmallLlama:
    return SmallLlama(len(contract.targets[0].labels))


def load_nothing(*_: object) -> nn.Module:
    raise AssertionError("a family with a build of its own is not loaded as an encoder")


FAMILY = Family(
    "small-llama",
    "avg",
    ("auto", "avg"),
    pixel=lambda source: PixelSpec(SIDE_PX, SIDE_PX),
    load=load_nothing,
    is_embedded=True,
    build=build_small_llama,
)
