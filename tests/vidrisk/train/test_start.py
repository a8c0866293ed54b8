"""Tests of runs that start from another run.

The weights that the other run trained are merged first, and kept next to the new weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vidrisk.data import Table
from vidrisk.models.config import TrainConfig
from vidrisk.models.run import Run
from vidrisk.runtimes.contract.errors import BundleError, SettingsError
from vidrisk.train.train import train_run

ConfigOf = Callable[..., TrainConfig]


def features_of(run: Run) -> torch.Tensor:
    frames = torch.randint(
        0,
        256,
        (2, run.contract.frames, *run.contract.pixel.frame_shape),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )
    with torch.inference_mode():
        return run.load_classifier().features(frames)


def test_a_run_goes_on_from_what_another_trained(photos: Table, config_of: ConfigOf, tmp_path: Path) -> None:
    lively = ("optim.lora_lr=0.05", "optim.epochs=1", "head.start=zero")  # so that the probe is not kept
    first = train_run(photos, config_of(*lively), tmp_path / "first")
    still = config_of("optim.lora_lr=0", "optim.epochs=1")
    second = train_run(photos, still, tmp_path / "second", start=first)
    third = train_run(photos, still, tmp_path / "third", start=second)
    plain = train_run(photos, still, tmp_path / "plain")
    expected = features_of(first)
    assert (expected - features_of(plain)).abs().max() > 1e-3
    torch.testing.assert_close(features_of(second), expected, atol=1e-4, rtol=1e-4)
    shutil.rmtree(first.root)
    moved = Path(shutil.move(third.root, tmp_path / "moved"))
    torch.testing.assert_close(features_of(Run.open(moved)), expected, atol=1e-4, rtol=1e-4)
    assert len({run.digest for run in (second, plain, Run.open(moved))}) == 3
    assert not list(moved.glob("base/**/head.safetensors"))


def test_a_start_that_does_not_fit(photos: Table, config_of: ConfigOf, tmp_path: Path) -> None:
    first = train_run(photos, config_of("optim.epochs=1"), tmp_path / "first")
    with pytest.raises(SettingsError, match="allowed: the same backbone"):
        train_run(photos, config_of("backbone=efficientnet-lite0"), tmp_path / "other", start=first)
    second = train_run(photos, config_of("optim.epochs=1"), tmp_path / "second", start=first)
    shutil.rmtree(second.root / "base" / "adapter")
    (second.root / "base" / "adapter").mkdir()
    with pytest.raises(BundleError, match="is not what the run started from"):
        second.load_classifier()


def test_a_base_that_is_gone_is_refused(photos: Table, config_of: ConfigOf, tmp_path: Path) -> None:
    """A run whose base is missing is refused, because its weights would belong to another model."""
    first = train_run(photos, config_of("optim.epochs=1"), tmp_path / "first")
    second = train_run(photos, config_of("optim.epochs=1"), tmp_path / "second", start=first)
    shutil.rmtree(second.root / "base")
    with pytest.raises(BundleError, match="base is not what the run started from"):
        second.load_classifier()
    with pytest.raises(SettingsError, match=r"lora\.targets 'zzz' matches no layer"):
        train_run(photos, config_of("lora.targets=[zzz]"), tmp_path / "third", start=first)
    assert not (tmp_path / "third").exists()
