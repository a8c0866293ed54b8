"""Foreign models as a third party would train them: small, in plain torch, on generated pictures."""

from __future__ import annotations

import functools
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

SIDE = 32
LABELS = ("crack", "rust", "sound")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def pictures(count: int, seed: int, side: int = SIDE) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return noisy walls ``uint8 (N, side, side, 3)`` and their labels.

    A wall has a dark line, a reddish patch, or neither.
    """
    rng = np.random.default_rng(seed)
    truth = np.arange(count) % len(LABELS)
    frames = rng.normal(150, 25, (count, side, side, 3)) + rng.normal(0, 20, (count, 1, 1, 1))
    for frame, label in zip(frames, truth, strict=True):
        row, column = rng.integers(4, side - 14, 2)
        if label == 0:
            for step in range(12):
                frame[row + step, column + step // 2 : column + step // 2 + 2] -= 60
        if label == 1:
            frame[row : row + 9, column : column + 9] += (35, -15, -40)
    return np.clip(frames, 0, 255).astype(np.uint8), truth.astype(np.int64)


class SmallCnn(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(
                layer
                for inputs, width in ((3, 12), (12, 16), (16, 24))
                for layer in (nn.Conv2d(inputs, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU())
            )
        )
        self.head = nn.Linear(24, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images).amax(dim=(2, 3)))


class SmallVit(nn.Module):
    """A vision transformer in its usual form: class token, positions, pre-norm blocks."""

    def __init__(self, classes: int = 3, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, stride=8)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(images.shape[0], -1, -1), tokens], dim=1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])


class Block(nn.Module):
    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.heads = heads

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        batch, count, width = tokens.shape
        q, k, v = self.qkv(self.first(tokens)).reshape(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, width)
        tokens = tokens + self.out(mixed)
        return tokens + self.mlp(self.second(tokens))


@dataclass(frozen=True)
class Scaled:
    """The pixel preprocessing of training: ``(value / 255 - mean) / std``, then the order of the channels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False

    def __call__(self, frames: npt.NDArray[np.uint8]) -> torch.Tensor:
        values = (torch.from_numpy(frames).float() / 255 - torch.tensor(self.mean)) / torch.tensor(self.std)
        return (values.flip(-1) if self.bgr else values).permute(0, 3, 1, 2).contiguous()


SCALES = {
    "imagenet": Scaled(*IMAGENET),
    "0..1": Scaled((0.0,) * 3, (1.0,) * 3),
    "-1..1": Scaled((0.5,) * 3, (0.5,) * 3),
    "0..255": Scaled((0.0,) * 3, (1 / 255,) * 3),
    "imagenet bgr": Scaled(*IMAGENET, bgr=True),
}


def train(model: nn.Module, scaled: Scaled, epochs: int = 12) -> nn.Module:
    torch.manual_seed(1)
    torch.set_num_threads(1)  # faster for so little
    frames, truth = pictures(360, seed=1)
    images, labels = scaled(frames), torch.from_numpy(truth)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(24):
            loss = nn.functional.cross_entropy(model(images[part]), labels[part])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return model.eval()


@functools.cache
def stranger(kind: str, scale: str = "imagenet") -> nn.Module:
    """Return a foreign ``cnn`` or ``vit`` trained on a scale; each is trained once per session."""
    torch.manual_seed(0)
    return train(SmallCnn() if kind == "cnn" else SmallVit(), SCALES[scale], epochs=10 if kind == "cnn" else 30)


class Logits(nn.Module):
    """A classifier of transformers wrapped as a plain torch module."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=images).logits


@functools.cache
def hub_stranger(*, trained: bool) -> Any:
    """Return a small ResNet of transformers, trained on pixels from -1 to 1 or untrained."""
    import transformers

    torch.manual_seed(0)
    model = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=16,
            hidden_sizes=[16, 32],
            depths=[1, 1],
            layer_type="basic",
            id2label=dict(enumerate(LABELS)),
            label2id={label: index for index, label in enumerate(LABELS)},
        )
    )
    if trained:
        train(Logits(model), SCALES["-1..1"])
    return model.eval()


def save_hub(folder: Path, *, trained: bool = True, id2label: dict[int, str] | None = None, **settings: Any) -> Path:
    """Save a checkpoint as ``save_pretrained`` writes it, with other labels or image processor settings."""
    hub_stranger(trained=trained).save_pretrained(folder)
    if id2label:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "id2label": id2label}))
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": SIDE, "width": SIDE},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, **settings}))
    return folder


class Nhwc(nn.Module):
    """A model that takes channels last."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images.permute(0, 3, 1, 2))


def export(
    model: nn.Module,
    path: Path,
    example: torch.Tensor,
    *,
    free: bool = True,
    dynamo: bool = False,
    opset: int = 17,
    outputs: tuple[str, ...] = ("scores",),
    axes: dict[int, Any] | None = None,
) -> Path:
    """Export a model by a usual call of ``torch.onnx.export``."""
    options: dict[str, Any] = {"opset_version": opset, "input_names": ["image"], "output_names": list(outputs)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own making
        if dynamo:
            shapes = ({0: torch.export.Dim("n", min=1)},) if free else None
            torch.onnx.export(
                model, (example,), str(path), dynamo=True, dynamic_shapes=shapes, verbose=False, **options
            )
        else:
            named = {"image": {0: "n", **(axes or {})}, **{name: {0: "n"} for name in outputs}} if free else None
            torch.onnx.export(model, (example,), str(path), dynamo=False, dynamic_axes=named, **options)
    return path
