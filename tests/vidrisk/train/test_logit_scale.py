"""Tests of the scale and shift that calibrate logits; a few samples change them only a little."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vidrisk.data import Sample, Table
from vidrisk.models.config import config_from_options
from vidrisk.runtimes.contract.contract import Target
from vidrisk.train.logit_scale import fit_logit_scale
from vidrisk.train.probe_choice import fit_start

ACTION = Target(name="action", labels=("a", "b", "c"))
DEFECT = Target(name="defect", labels=("crack", "leak"), multi_label=True)
PRIOR = torch.tensor([0.90, 0.09, 0.01]).log()


def drawn(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return true logits, and labels drawn from their probabilities."""
    generator = torch.Generator().manual_seed(0)
    logits = PRIOR + 2 * torch.randn(samples, 3, generator=generator)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.3, 0.0), (1.0, 0.8), (0.5, 0.5)])
def test_logits_that_are_scaled_and_shifted_are_brought_back(scale: float, shift: float) -> None:
    logits, truth = drawn(20_000)
    spoilt = scale * (logits + shift * PRIOR)  # too sure of the frequent, and too unsure altogether
    found = fit_logit_scale(spoilt, truth, ACTION, PRIOR)
    assert (found.scale, found.shift) == pytest.approx((1 / scale, shift), abs=0.06, rel=0.06)
    mended = spoilt * found.scale - found.shift * PRIOR
    torch.testing.assert_close(found.of_logits(spoilt, PRIOR), mended)
    assert float(F.cross_entropy(mended, truth)) == pytest.approx(float(F.cross_entropy(logits, truth)), abs=2e-3)


def test_one_sample_moves_little() -> None:
    found = fit_logit_scale(torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([2]), ACTION, PRIOR)
    assert 0.3 < found.scale < 1 and 0 < found.shift < 2


def test_labels_of_which_any_number_may_hold() -> None:
    generator = torch.Generator().manual_seed(0)
    prior = torch.tensor([-4.0, 0.5])
    logits = prior + 2 * torch.randn(20_000, 2, generator=generator)
    truth = torch.bernoulli(logits.sigmoid(), generator=generator).long()
    found = fit_logit_scale(0.5 * logits + 0.4 * prior, truth, DEFECT, prior)
    assert (found.scale, found.shift) == pytest.approx((2.0, 0.8), abs=0.1)


@pytest.mark.parametrize("rare", [4, 40])
def test_a_probe_finds_what_it_has_seen_a_few_times(rare: int) -> None:
    """The recall of a probe for a rare class comes near that of the best classifier.

    The samples come from two Gaussians, so the best classifier is known. The rare class has 4 or 40 samples, and
    the other one has 4,000.
    """
    rng = np.random.default_rng(1)

    def gaussians(frequent: int, few: int) -> tuple[np.ndarray, np.ndarray]:
        truth = np.r_[np.zeros(frequent, np.int64), np.ones(few, np.int64)]
        features = rng.normal(size=(len(truth), 32)).astype(np.float32)
        features[truth == 1, :8] += 6 / np.sqrt(8)
        return features, truth

    features, truth = gaussians(1000 * 4, rare)
    judged, answers = gaussians(40_000, 10 * rare)
    target = Target(name="action", labels=("frequent", "rare"))
    table = Table("", "action", tuple(Sample(f"{i}", f"{i}", {"action": str(label)}) for i, label in enumerate(truth)))  # type: ignore[arg-type]
    figures = {}
    for rule in ("none", "drawn"):
        weights, bias = fit_start(
            features,
            truth,
            truth,
            np.arange(len(truth)),
            np.zeros(len(truth), np.int64),
            target,
            table,
            config_from_options(None, [f"optim.class_weights={rule}"]),
        )
        logits = torch.from_numpy(judged) @ weights.T + bias
        figures[rule] = (
            float((logits[answers == 1].argmax(1) == 1).float().mean()),
            float(F.cross_entropy(logits, torch.from_numpy(answers))),
        )
    evidence = judged[:, :8].sum(1) * 6 / np.sqrt(8) - 18 + np.log(rare / 4000)
    best = float((evidence[answers == 1] > 0).mean())
    recall, loss = figures["drawn"]
    assert recall > best - 0.25 and recall > figures["none"][0] and loss < figures["none"][1]
