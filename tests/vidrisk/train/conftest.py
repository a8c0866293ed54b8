"""Fixtures for training: photos whose class is their colour, and a tiny transformer.

An epoch takes a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidrisk.data import Sample, Table
from vidrisk.data.table import SplitName
from vidrisk.models.config import TrainConfig, config_from_options

RGB = {"blue": (40, 40, 170), "green": (40, 170, 40), "red": (170, 40, 40)}


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Return a table of 24 noisy photos of three classes: 16 to train, 5 to validate and 3 to test."""
    root = tmp_path_factory.mktemp("photos")
    samples = []
    for number in range(24):
        label = tuple(RGB)[number % 3]
        noise = np.random.default_rng(number).integers(-30, 30, (64, 64, 3))
        path = root / f"{number:02}.png"
        Image.fromarray(np.clip(np.array(RGB[label]) + noise, 0, 255).astype(np.uint8)).save(path)
        split: SplitName = "train" if number < 16 else "val" if number < 21 else "test"
        samples.append(Sample(path, path.name, {"action": label}, split=split))
    return Table(root, "action", tuple(samples))


@pytest.fixture(scope="session")
def config_of(backbone_folder: Callable[[str], Path]) -> Callable[..., TrainConfig]:
    """Return a function that builds a configuration from assignments, for a three-layer transformer at 64 px."""

    def make(*assignments: str) -> TrainConfig:
        return config_from_options(
            None,
            [
                "optim.epochs=3",
                "optim.batch_size=4",
                "optim.lora_lr=0.002",
                "optim.head_lr=0.01",
                "lora.rank=4",
                "precision=fp32",
                *assignments,
            ],
            backbone=str(backbone_folder("vit")),
        )

    return make
