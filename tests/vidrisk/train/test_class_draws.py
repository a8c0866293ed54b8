"""Tests of class draws: rare classes are drawn more often, and the loss corrects the logits for it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from vidrisk.data import Sample, Table
from vidrisk.data.table import SplitName
from vidrisk.models.config import OptimSettings, TrainConfig, config_from_options
from vidrisk.models.run import Run
from vidrisk.runtimes.contract.contract import Target
from vidrisk.train.class_draws import draw_order, draw_weights, prior_logits, settle_class_weights, shifts_of_draws
from vidrisk.train.objective import Objective
from vidrisk.train.shares import ALONE
from vidrisk.train.train import train_run

ACTION = Target(name="action", labels=("a", "b"))
DEFECT = Target(name="defect", labels=("crack", "leak"), multi_label=True)


def truth_of(frequent: int, rare: int) -> torch.Tensor:
    return torch.tensor([[0]] * frequent + [[1]] * rare)


@given(weights=st.lists(st.floats(0.01, 50), min_size=1, max_size=60), seed=st.integers(0, 999))
def test_every_sample_is_drawn_as_often_as_its_weight_says(weights: list[float], seed: int) -> None:
    wanted = torch.tensor(weights, dtype=torch.float64)
    wanted /= wanted.mean()
    counts = Counter(draw_order(wanted, torch.Generator().manual_seed(seed)))
    assert counts.total() == len(weights)
    for number, of_sample in enumerate(wanted.tolist()):
        assert abs(counts[number] - of_sample) < 1 + 1e-9


def test_equal_samples_are_drawn_once_each_in_another_order_every_time() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (draw_order(torch.ones(50, dtype=torch.float64), generator) for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(50)) and first != second


def test_rare_samples_are_drawn_by_the_root_of_their_rarity() -> None:
    weights = draw_weights(truth_of(900, 9), [ACTION])
    assert float(weights[-1] / weights[0]) == pytest.approx(10) and float(weights.mean()) == pytest.approx(1)


def test_of_several_targets_the_rarest_label_says_it() -> None:
    truth = torch.tensor([[0, 0, 0]] * 90 + [[1, 0, 0]] * 5 + [[0, 1, 0]] * 4 + [[0, -1, -1]])
    weights = draw_weights(truth, [ACTION, DEFECT])
    assert weights[94] > weights[0] and weights[95] > weights[94]
    assert weights[99] == weights[0]  # what nobody has labelled is not rare


@pytest.mark.parametrize("frequent", [40, 400])
def test_the_best_logits_are_those_of_the_data_however_samples_are_drawn(frequent: int) -> None:
    """The loss over the draws is lowest at the label frequencies of the data.

    The data have one feature with two values.
    """
    values = torch.tensor([0] * (frequent * 3 // 4) + [1] * (frequent // 4) + [0] * 4 + [1] * 12)
    truth = truth_of(frequent, 16)
    weights = draw_weights(truth, [ACTION])
    shifts = shifts_of_draws(weights, truth, [ACTION])
    objective = Objective.of(truth, [ACTION], OptimSettings(class_weights="drawn"), ALONE, shifts)
    logits = torch.zeros(2, 2, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")
    counts = (weights * 50).round().long()  # as many draws that chance has no part in it
    rows = torch.repeat_interleave(torch.arange(len(truth)), counts)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = objective.loss((logits[values[rows]],), None, truth[rows], rows.tolist())
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    share = [4 / (frequent * 3 // 4 + 4), 12 / (frequent // 4 + 12)]
    assert logits.detach().softmax(dim=1)[:, 1].tolist() == pytest.approx(share, rel=0.02)


def test_the_frequencies_of_labels_are_what_one_knows_without_looking() -> None:
    truth = torch.tensor([[0, 1, 0], [0, 1, 0], [1, 0, 1], [0, -1, -1]])
    action, defect = prior_logits(truth, [ACTION, DEFECT])
    assert action.softmax(0).tolist() == pytest.approx([0.75, 0.25])
    assert defect.sigmoid().tolist() == pytest.approx([2 / 3, 1 / 3])


def table_with(counts: dict[str, int]) -> Table:
    return Table(
        Path(),
        "action",
        tuple(
            Sample(Path(f"{label}{i}.png"), f"{label}{i}.png", {"action": label})
            for label, count in counts.items()
            for i in range(count)
        ),
    )


@pytest.mark.parametrize(("counts", "rule"), [({"a": 50, "b": 5}, "none"), ({"a": 55, "b": 5}, "drawn")])
def test_auto_is_for_classes_that_are_more_than_ten_times_as_rare(counts: dict[str, int], rule: str) -> None:
    assert settle_class_weights(TrainConfig(), table_with(counts)).optim.class_weights == rule


@pytest.mark.parametrize("rule", ["none", "sqrt", "balanced", "drawn"])
def test_a_rule_that_somebody_named_stays(rule: str) -> None:
    config = config_from_options(None, [f"optim.class_weights={rule}"])
    assert settle_class_weights(config, table_with({"a": 500, "b": 5})) == config


def test_labels_that_are_counted_one_by_one_are_left_as_they_are() -> None:
    samples = [
        Sample(Path(f"{i}.png"), f"{i}.png", {"defect": ("crack", "leak") if i < 2 else ("crack",)}) for i in range(90)
    ]
    assert settle_class_weights(TrainConfig(), Table(Path(), "risk", tuple(samples))).optim.class_weights == "none"


@pytest.fixture(scope="module")
def rusty_photos(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Return 240 grey photos and 4 with a tint of rust to train, 30 and 2 to validate, and 40 and 8 to test."""
    root = tmp_path_factory.mktemp("rusty_photos")
    rng = np.random.default_rng(0)
    samples = []
    parts: tuple[tuple[SplitName, int, int], ...] = (("train", 240, 4), ("val", 30, 2), ("test", 40, 8))
    for split, sound, rusty in parts:
        for number in range(sound + rusty):
            label = "sound" if number < sound else "rusty"
            pixels = rng.normal(120, 12, (64, 64, 3)) + rng.normal(0, 8, 3)
            if label == "rusty":
                pixels += (30, -10, -30)
            path = root / f"{split}-{number:03}.png"
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
            samples.append(Sample(path, path.name, {"action": label}, split=split))
    return Table(root, "action", tuple(samples))


@pytest.mark.slow(minutes=0.1)
def test_rare_photos_are_found_by_default(
    rusty_photos: Table, config_of: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    run = train_run(
        rusty_photos, config_of("optim.epochs=1", "optim.batch_size=16", "lora.last_blocks=0"), tmp_path / "run"
    )
    assert Run.open(run.root).config.optim.class_weights == "drawn"  # a run says what was decided, to be repeated
    of_class = {
        each["label"]: each
        for each in json.loads((run.root / "metrics.json").read_text())["test"]["action"]["per_class"]
    }
    assert of_class["rusty"]["recall"] >= 0.5 and of_class["sound"]["recall"] == 1.0


def test_other_heads_begin_at_the_frequencies_of_the_classes(
    rusty_photos: Table, config_of: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    settings = ("optim.epochs=1", "optim.lora_lr=0", "optim.head_lr=0", "head.kind=mlp")
    bare = rusty_photos.with_samples(sample for sample in rusty_photos.samples if sample.split != "val")
    run = train_run(bare, config_of(*settings), tmp_path / "run")
    bias = run.load_classifier().state_dict()["head.classifiers.0.bias"]
    assert F.softmax(bias, dim=0).tolist() == pytest.approx([4 / 244, 240 / 244])  # rusty, sound
