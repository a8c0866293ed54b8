"""A small bundle of every family: the real architecture with random weights, in fp32, fp16 and quantized.

The bundles are created in seconds without downloads, and reused: a folder that contains them needs neither torch nor a
backbone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

EFFICIENTNET = "efficientnet-lite0"
MODELS = {
    "vit": "ViTModel",
    "dinov2": "Dinov2Model",
    "clip_vision_model": "CLIPVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
    "dinov3_vit": "DINOv3ViTModel",
}  # classes in transformers
FAMILIES = ("vit", EFFICIENTNET, *list(MODELS)[1:])
SIDE_PX, MOMENTS, CLIPS, CALIBRATION = 64, 3, 8, 32
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": SIDE_PX,
    "patch_size": 16,
}

Frames = npt.NDArray[np.uint8]


def frames(count: int, seed: int) -> Frames:
    """Return different frames ``uint8 (count, H, W, 3)``: each has a colour, a bright bar and noise."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 200, (count, 1, 1, 3)) + rng.integers(0, 30, (count, SIDE_PX, SIDE_PX, 3))
    for each, at in enumerate(rng.integers(0, SIDE_PX - SIDE_PX // 8, count)):
        values[each, :, at : at + SIDE_PX // 8] += 60
    return np.clip(values, 0, 255).astype(np.uint8)


def bundle_folder(work: Path, family: str) -> Path:
    return work / "families" / f"{family}.bundle"


def find_families(work: Path, families: Sequence[str]) -> list[str]:
    """Return the families whose bundle exists."""
    return [family for family in families if bundle_folder(work, family).is_dir()]


def family_bundle(work: Path, family: str) -> Any:
    """Return the bundle; create it if it is missing."""
    from vidrisk.runtimes import Bundle

    if not bundle_folder(work, family).is_dir():
        _export(work, family)
    return Bundle.open(bundle_folder(work, family))


def _export(work: Path, family: str) -> None:
    import torch
    from gpu_models import export_with_random_head

    from vidrisk.models.encoders import build_encoder
    from vidrisk.runtimes import Target

    torch.manual_seed(0)
    encoder = (
        build_encoder(family, pixel={"height": SIDE_PX, "width": SIDE_PX})
        if family == EFFICIENTNET
        else build_encoder(str(_backbone(work, family)))
    ).eval()
    clips = frames(CLIPS * MOMENTS, seed=1)
    export_with_random_head(
        encoder,
        Target(name="action", labels=("run", "sit", "fall")),
        clips.reshape(CLIPS, MOMENTS, *clips.shape[1:]),
        frames(CALIBRATION, seed=7),
        bundle_folder(work, family),
    )


def _backbone(work: Path, family: str) -> Path:
    """Write a checkpoint of the family with ``save_pretrained``: 64 px, patch 16, width 64, 3 layers."""
    import transformers

    folder = work / "families" / family
    model = getattr(transformers, MODELS[family])
    model(model.config_class(**SIZES)).save_pretrained(folder)
    described = {
        "image_processor_type": "ViTImageProcessor",
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 2,
        "size": {"height": SIDE_PX, "width": SIDE_PX},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(described), encoding="utf-8")
    return folder
