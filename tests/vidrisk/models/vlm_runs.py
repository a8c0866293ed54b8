"""Cases of vision-language classifiers that the real training loop runs for a few steps, and their results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vidrisk.data import Sample, Table
from vidrisk.models.pretrained import build_classifier
from vidrisk.models.run import Run
from vidrisk.models.vlm.act_classifier import VlmClassifier

COMMON = (
    "frames=2",
    "lora.rank=2",
    "lora.last_blocks=2",
    "head.hidden=16",
    "head.heads=4",
    "optim.epochs=2",
    "optim.batch_size=8",
    "optim.head_lr=0.01",
    "optim.lora_lr=0.005",
    "optim.token_lr=0.01",
    "precision=fp32",
    "views=1",
)
SIZE = {"qwen2_5_vl": (84, 56), "qwen3_vl": (96, 64), "compose": (64, 64)}  # the first has windows of unequal size
CASES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {  # kind, how its backbone is saved, settings
    "qwen2_5_vl": ("qwen2_5_vl", {}, ("frames=4",)),
    "qwen2_5_vl, untied": ("qwen2_5_vl", {"tie": False}, ()),
    "qwen3_vl": ("qwen3_vl", {}, ("frames=4", "head.kind=transformer")),
    "composed": ("compose", {}, ("head.kind=mlp",)),
    "composed, untied, no spare row": ("compose", {"spare": False, "tie_word_embeddings": False}, ()),
    "composed, no spare row": ("compose", {"spare": False}, ()),
    "DoRA, rank-stabilised": ("compose", {}, ("lora.dora=true", "lora.rslora=true", "head.kind=transformer_no_vision")),
    "vision adapted, merger trained": (
        "qwen2_5_vl",
        {},
        ("lora.parts=[language,vision]", "optim.projector_lr=0.001", "precision=bf16", "gradient_checkpointing=true"),
    ),
    "vision adapted, composed": ("compose", {}, ("lora.parts=[vision]", "optim.projector_lr=0")),
}
PHOTOS = {"photos of qwen2_5_vl": ("qwen2_5_vl", {}, ()), "photos of qwen3_vl": ("qwen3_vl", {}, ())}
RGB = {"crack": (170, 40, 40), "rust": (40, 170, 40), "sound": (40, 40, 170)}


@dataclass(frozen=True)
class Trained:
    """A run, and the model that was saved in it."""

    run: Run
    model: VlmClassifier

    def frames(self, count: int = 3) -> Tensor:
        contract = self.run.contract
        shape = (count, contract.frames, *contract.pixel.frame_shape)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(5))

    @torch.inference_mode()
    def logits(self, model: Any = None) -> Tensor:
        model = (model or self.model).eval()
        logits: Tensor = model.logits(model.features(self.frames()))[0]
        return logits

    def fresh(self) -> VlmClassifier:
        """Return the model as it was before its first step, without adapters."""
        torch.manual_seed(0)
        model = build_classifier(self.run.config, self.run.contract)
        assert isinstance(model, VlmClassifier)
        return model


def write_photos(root: Path) -> Table:
    """Write 24 noisy photos with three defect labels and return their table."""
    samples = []
    for number in range(24):
        label = tuple(RGB)[number % 3]
        noise = np.random.default_rng(number).integers(-30, 30, (96, 64, 3))
        path = root / f"{number:02}.png"
        Image.fromarray(np.clip(np.array(RGB[label]) + noise, 0, 255).astype(np.uint8)).save(path)
        samples.append(Sample(path, path.name, {"defect": label}))
    return Table(root, "risk", tuple(samples))
