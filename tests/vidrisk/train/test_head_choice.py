"""Tests of the head choice for clips, by cross-validation on the training samples.

The static scene is left out unless it improves the result.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vidrisk.data import Sample, Table
from vidrisk.models.config import config_from_options
from vidrisk.models.run import Run
from vidrisk.runtimes.contract.contract import Target
from vidrisk.train.head_choice import head_from_features
from vidrisk.train.train import train_run

SMALL = ["pixel.height=64", "pixel.width=64", "frames=4", "lora.last_blocks=0", "optim.epochs=1", "augment=[]"]


def features_of(kind: str, samples: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise features in which the scene or the order of two halves separates two classes."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn((samples, 8, 16), generator=generator)
    truth = torch.arange(samples) % 2
    sign = 2.0 * truth[:, None] - 1
    if kind == "scene":
        features[:, :, 0] += 2 * sign
    else:
        features[:, :4, 0] += 2 * sign
        features[:, 4:, 0] -= 2 * sign
    return features, truth[:, None]


@pytest.mark.parametrize(("what", "kind"), [("scene", "segments"), ("order", "motion")])
def test_the_scene_counts_where_it_tells_the_label(what: str, kind: str) -> None:
    features, truth = features_of(what)
    found, why = head_from_features(
        features, truth, [Target(name="action", labels=("a", "b"))], [n % 5 for n in range(len(truth))]
    )
    assert found == kind and "loss of probes out of fold: motion " in why


def test_several_labels_choose_a_head_as_well() -> None:
    features, truth = features_of("scene")
    target = Target(name="action", labels=("a", "b"), multi_label=True)
    many = torch.cat([truth, 1 - truth], dim=1)
    many[:7] = -1  # nobody has labelled them
    assert head_from_features(features, many, [target], [n % 5 for n in range(len(truth))])[0] == "segments"


def table_of(folder: Path, write_clip: Callable[..., Path]) -> Table:
    """Write 24 clips of two colours and return their table."""
    samples = []
    for number in range(24):
        path = write_clip(folder / f"{number}.mp4", ((150, 40, 40), (40, 40, 150))[number % 2], seed=number)
        samples.append(Sample(path, path.name, {"action": "ab"[number % 2]}, split="val" if number >= 18 else "train"))
    return Table(folder, "action", tuple(samples))


def test_the_head_that_was_chosen_is_written_down(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    run = train_run(table_of(tmp_path, write_clip), config_from_options(None, SMALL), tmp_path / "run")
    assert run.config.head.kind == Run.open(run.root).config.head.kind in ("motion", "segments")


def test_a_head_that_somebody_chose_stays(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    config = config_from_options(None, [*SMALL, "head.kind=segments"])
    assert train_run(table_of(tmp_path, write_clip), config, tmp_path / "run").config.head.kind == "segments"


def test_too_few_samples_get_the_head_that_sees_all(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    table = table_of(tmp_path, write_clip)
    few = table.with_samples([*table.samples[:4], *table.samples[20:]])
    assert train_run(few, config_from_options(None, SMALL), tmp_path / "run").config.head.kind == "segments"
