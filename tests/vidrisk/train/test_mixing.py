"""Tests of mixed batches: each sample is mixed with another one, in a share that the batch reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vidrisk.data import load_table
from vidrisk.models.config import OptimSettings, config_from_options
from vidrisk.train import class_work
from vidrisk.train.mixing import Mixed, _beta, mix_batch
from vidrisk.train.train import train_run


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frames(count: int = 5) -> torch.Tensor:
    """Return clips that each hold one constant value."""
    return (
        (40 * torch.arange(1, count + 1, dtype=torch.uint8))[:, None, None, None, None]
        .expand(count, 2, 16, 16, 3)
        .contiguous()
    )


TRUTH = torch.arange(5)[:, None]


@pytest.mark.parametrize("seed", range(8))
def test_mixup_is_the_weighted_mean_of_two_different_samples(seed: int) -> None:
    inputs = frames()
    mixed = mix_batch(inputs, TRUTH, OptimSettings(mixup=1.0), generator(seed))
    assert mixed.inputs.dtype == torch.uint8 and (mixed.truth == TRUTH).all() and (mixed.other != TRUTH).all()
    expected = inputs.float() * mixed.share + inputs[mixed.other[:, 0]].float() * (1 - mixed.share)
    assert (mixed.inputs.float() - expected).abs().max() <= 0.5
    hidden = torch.randn(5, 7, generator=generator())
    mixed = mix_batch(hidden, TRUTH, OptimSettings(mixup=0.4), generator(seed))
    torch.testing.assert_close(mixed.inputs, hidden * mixed.share + hidden[mixed.other[:, 0]] * (1 - mixed.share))


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_cuts_the_same_rectangle_out_of_every_moment(seed: int) -> None:
    inputs = frames()
    for clips, moments_last in ((inputs, False), (inputs.permute(0, 1, 4, 2, 3).float(), True)):
        mixed = mix_batch(clips, TRUTH, OptimSettings(cutmix=1.0), generator(seed))
        from_other = mixed.inputs == clips[mixed.other[:, 0]]
        assert ((mixed.inputs == clips) | from_other).all()
        place = from_other.permute(0, 1, 3, 4, 2) if moments_last else from_other
        assert (place == place[:1, :1, :, :, :1]).all()
        rows, columns = np.nonzero(place[0, 0, :, :, 0].numpy())
        area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1) if len(rows) else 0
        assert area == len(rows) and mixed.share == pytest.approx(1 - area / 256)


def test_nothing_is_mixed_unless_it_is_asked_for_and_there_are_two() -> None:
    for inputs, optim in ((frames(), OptimSettings()), (frames(1), OptimSettings(mixup=1.0))):
        mixed = mix_batch(inputs, TRUTH[: len(inputs)], optim, generator())
        assert mixed.inputs is inputs and mixed.share == 1


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_are_those_of_a_beta_distribution(alpha: float) -> None:
    source = generator()
    drawn = np.array([_beta(alpha, source) for _ in range(4000)])
    assert drawn.mean() == pytest.approx(0.5, abs=0.02) and drawn.var() == pytest.approx(
        1 / (4 * (2 * alpha + 1)), rel=0.1
    )


def test_a_run_learns_from_mixed_batches(clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = list[float]()

    def watch(*arguments: Any) -> Mixed:
        mixed = mix_batch(*arguments)
        shares.append(mixed.share)
        return mixed

    monkeypatch.setattr(class_work, "mix_batch", watch)
    settings = [
        "pixel.height=64",
        "pixel.width=64",
        "frames=2",
        "lora.last_blocks=2",
        "optim.epochs=2",
        "optim.mixup=0.4",
        "optim.cutmix=1.0",
    ]
    run = train_run(load_table(clip_folder, "action"), config_from_options(None, settings), tmp_path / "run")
    assert run.config.optim.cutmix == 1.0 and sum(0 < share < 1 for share in shares) > len(shares) / 2 > 0
