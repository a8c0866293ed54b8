"""Models for GPU benchmarks: ViT-B/16 and EfficientNet-Lite0 as bundles with fp32, fp16 and a quantized variant.

Throughput does not depend on the weights: those of the ViT and of both heads are random, and accuracy is not measured.
Frames are photos of solar cells (elpv-dataset). Each bundle is created once and kept in the work folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from PIL import Image

from vidrisk.demo import cell_photos
from vidrisk.export.export import export_bundle
from vidrisk.export.gate.outputs import Validation
from vidrisk.export.trained import ExportOptions, Trained, TrainedStage
from vidrisk.models.encoders import build_encoder
from vidrisk.models.heads import Head
from vidrisk.runtimes import Bundle, Contract, PixelSpec, Target, TimeSpec
from vidrisk.runtimes.contract.stages import frame_encoder_stages

MOMENTS = 8
TARGET = Target(name="action", labels=("one", "two", "three", "four", "five", "six"))
CALIBRATION, VALIDATION_CLIPS, PARITY = 64, 8, 64
TRIAL_VIT: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
TRIAL_PX, PX = 64, 224

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class HeldFrames:
    """Calibration frames in memory."""

    frames: Frames

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.frames.data).hexdigest()

    @property
    def count(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Frames]:
        return iter(self.frames)

    def windows(self) -> Iterator[Frames]:
        return iter(self.frames[:, None])  # of one moment


@dataclass(frozen=True)
class Model:
    """An encoder and its bundle."""

    name: str
    backbone: str
    pixel: dict[str, int]
    root: Path

    def encoder(self) -> Any:
        """Return a new model on the processor in float32."""
        torch.manual_seed(0)
        return build_encoder(self.backbone, pixel=self.pixel).eval()

    @cached_property
    def bundle(self) -> Bundle:
        if not self.root.is_dir():
            self._export()
        return Bundle.open(self.root)

    @property
    def quantized(self) -> str:
        """Return the quantized variant, parts of which the export may have kept in floating point."""
        return next(name for name in ("int8", "mixed") if name in self.bundle.manifest.variants)

    def photos(self, start: int, count: int) -> Frames:
        """Return photos ``uint8 (count, H, W, 3)``."""
        side = self.pixel["height"]
        paths = [path for path, _ in cell_photos()[start : start + count]]
        return np.stack([np.asarray(Image.open(path).convert("RGB").resize((side, side))) for path in paths])

    def _export(self) -> None:
        photos = VALIDATION_CLIPS * MOMENTS
        clips = self.photos(0, photos)
        export_with_random_head(
            self.encoder(),
            TARGET,
            clips.reshape(VALIDATION_CLIPS, MOMENTS, *clips.shape[1:]),
            self.photos(photos, CALIBRATION),
            self.root,
        )


def export_with_random_head(encoder: Any, target: Target, clips: Frames, calibration: Frames, root: Path) -> None:
    """Export an encoder for a GPU in all precisions, with a random head whose answers serve as the true labels.

    The gate judges on ``clips``, ``uint8 (N, T, H, W, 3)``; ``calibration`` is ``uint8 (M, H, W, 3)``.
    """
    count, moments, height, width, _ = clips.shape
    contract = Contract(
        task="action", pixel=PixelSpec(height=height, width=width), time=TimeSpec(moments), targets=(target,)
    )
    with torch.inference_mode():
        features = encoder(torch.from_numpy(clips).flatten(0, 1))
        head = Head("linear", width=encoder.width, frames=moments, targets=(target,), hidden=16, dropout=0.0)
        head.standardise_by([features])
        torch.nn.init.normal_(head.classifiers[0].weight)
        logits = head.eval()(features.unflatten(0, (count, moments)))[0]
    validation = Validation(clips, {target.name: logits.argmax(1).numpy()}, [f"clip {i}" for i in range(count)])
    stages = zip(frame_encoder_stages(contract, encoder.width), (encoder, head), strict=True)
    trained = Trained(tuple(TrainedStage(stage, module) for stage, module in stages), contract)
    options = ExportOptions(int8=True, fp16=True, target="gpu", max_drop=100, allow_drop=True, search_s=0)
    export_bundle(trained, root, validation, HeldFrames(calibration), options)


def models_in(work: Path, *, trial: bool) -> list[Model]:
    """Return both models; small ones for a ``trial``."""
    side = TRIAL_PX if trial else PX
    pixel = {"height": side, "width": side}
    vit = work / "vit-backbone"
    if not vit.is_dir():
        torch.manual_seed(0)
        config = transformers.ViTConfig(image_size=side, **(TRIAL_VIT if trial else {}))
        transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(vit)
        processor = {
            "image_processor_type": "ViTImageProcessor",
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "resample": 2,
        }
        (vit / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return [
        Model("ViT-B/16", str(vit), pixel, work / "vit.bundle"),
        Model("EfficientNet-Lite0", "efficientnet-lite0", pixel, work / "lite0.bundle"),
    ]
