"""Tiny real models for every room: the architectures of the supported families, random weights, saved as their users do."""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from vidrisk.runtimes.gpu import visible_gpu

os.environ["HF_HUB_OFFLINE"] = "1"  # an unknown backbone must fail at once, not after asking a network

SIDE_PX = 64
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": SIDE_PX,
    "patch_size": 16,
}
# model_type → configuration class, model class, image processor, mean, std; as published checkpoints of the family have them.
BACKBONES: dict[str, tuple[str, str, str, tuple[float, ...], tuple[float, ...]]] = {
    "clip_vision_model": (
        "CLIPVisionConfig",
        "CLIPVisionModel",
        "CLIPImageProcessor",
        (0.481, 0.458, 0.408),
        (0.269, 0.261, 0.276),
    ),
    "siglip_vision_model": ("SiglipVisionConfig", "SiglipVisionModel", "SiglipImageProcessor", (0.5,) * 3, (0.5,) * 3),
    "dinov2": ("Dinov2Config", "Dinov2Model", "BitImageProcessor", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "dinov3_vit": (
        "DINOv3ViTConfig",
        "DINOv3ViTModel",
        "DINOv3ViTImageProcessorFast",
        (0.43, 0.411, 0.296),
        (0.213, 0.156, 0.143),
    ),
    "vit": ("ViTConfig", "ViTModel", "ViTImageProcessor", (0.5,) * 3, (0.5,) * 3),
}


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDRISK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_gpu() -> Iterator[None]:
    """No test measures or gates on a GPU by the way; what is marked ``gpu`` asks for ``real_gpu``."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("registry", "select"):
            patch.setattr(f"vidrisk.runtimes.{module}.visible_gpu", lambda: None)
        yield


@pytest.fixture
def real_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("registry", "select"):
        monkeypatch.setattr(f"vidrisk.runtimes.{module}.visible_gpu", visible_gpu)


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """model_type → a folder as ``save_pretrained`` leaves it: 64 px, patch 16, width 64, 3 layers."""
    root = tmp_path_factory.mktemp("backbones")

    @functools.cache
    def make(family: str) -> Path:
        import torch
        import transformers

        config_class, model_class, processor, mean, std = BACKBONES[family]
        folder = root / family
        torch.manual_seed(0)
        config: Any = getattr(transformers, config_class)(**SIZES)
        getattr(transformers, model_class)(config).save_pretrained(folder)
        described = {
            "image_processor_type": processor,
            "image_mean": mean,
            "image_std": std,
            "resample": 3,
            "size": {"height": SIDE_PX, "width": SIDE_PX},
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(described), encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def adapted_encoder(backbone_folder: Callable[[str], Path]) -> Callable[[str], Any]:
    """model_type or ``efficientnet-lite0`` → a fresh encoder with LoRA whose B is not zero, so that merging matters."""

    def make(family: str) -> Any:
        import torch

        from vidrisk.models.encoders import build_encoder
        from vidrisk.models.lora import add_lora

        embedded = family == "efficientnet-lite0"
        encoder = build_encoder(
            family if embedded else str(backbone_folder(family)),
            pixel={"height": SIDE_PX, "width": SIDE_PX} if embedded else None,
        )
        add_lora(encoder, rank=4, alpha=8, dropout=0.0, last_blocks=2)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in encoder.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.05, generator=generator)
        return encoder.eval()

    return make


@pytest.fixture(scope="session")
def clips() -> Callable[..., npt.NDArray[np.uint8]]:
    """``uint8 (N, T, H, W, 3)`` that differ from one another: a colour, a bright bar that moves, and noise."""

    def make(count: int, frames: int = 1, side: int = SIDE_PX, seed: int = 0) -> npt.NDArray[np.uint8]:
        rng = np.random.default_rng(seed)
        values = rng.integers(0, 200, (count, 1, 1, 1, 3)) + rng.integers(0, 30, (count, frames, side, side, 3))
        for clip in range(count):
            for moment in range(frames):
                at = (rng.integers(side) + moment * side // 8) % side
                values[clip, moment, :, at : at + side // 8] += 60
        return np.clip(values, 0, 255).astype(np.uint8)

    return make


def pytest_configure() -> None:
    """A shell that starts the tests in the background lets them, and the processes that they start, ignore Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What is marked ``gpu`` needs one: it is skipped where there is none, and fails there if one was promised."""
    if item.get_closest_marker("gpu") and not visible_gpu():
        if os.environ.get("VIDRISK_REQUIRE_GPU") == "1":
            pytest.fail("no NVIDIA GPU is visible, and VIDRISK_REQUIRE_GPU=1", pytrace=False)
        pytest.skip("no NVIDIA GPU is visible")
