from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vidrisk.models.config import OptimSettings
from vidrisk.runtimes.contract.contract import Target
from vidrisk.train.objective import Objective, class_weights
from vidrisk.train.shares import ALONE, Share

ACTION, LEVEL = Target(name="action", labels=("a", "b", "c")), Target(name="level", labels=("low", "high"))
DEFECT = Target(name="defect", labels=("crack", "leak"), multi_label=True)
TARGETS = (ACTION, LEVEL, DEFECT)
# 9 samples of three targets; nobody shows action "b", and "c" is rare. Some are not labelled for a target.
TRUTH = torch.tensor(
    [
        [0, 0, 0, 1],
        [0, 1, 1, 1],
        [2, 0, -1, -1],
        [0, 0, 0, 0],
        [0, 1, 0, 1],
        [0, 0, 0, 1],
        [0, -1, 0, 0],
        [-1, 0, 1, 0],
        [2, 1, 0, 1],
    ]
)


@pytest.mark.parametrize(("rule", "power"), [("balanced", -1), ("sqrt", -0.5)])
def test_rare_classes_weigh_more_and_samples_one_on_average(rule: str, power: float) -> None:
    action, level, defect = class_weights(TRUTH, TARGETS, rule)
    assert action is not None and level is not None and defect is not None
    for weights, truth in ((action, TRUTH[:, 0]), (level, TRUTH[:, 1])):
        assert float(weights[truth[truth >= 0]].mean()) == pytest.approx(1)
    assert float(action[2] / action[0]) == pytest.approx((2 / 6) ** power)
    assert float(level[1] / level[0]) == pytest.approx((3 / 5) ** power)
    assert float(action[1] / action[0]) == pytest.approx((1 / 6) ** power)  # as if there were one
    assert defect.tolist() == pytest.approx([(2 / 6) ** power, (5 / 3) ** power])  # beside samples that lack the label


def test_without_a_rule_all_classes_weigh_the_same() -> None:
    assert class_weights(TRUTH, TARGETS, "none") == [None, None, None]


def objective_of(share: Share, rule: str, smoothing: float) -> Objective:
    return Objective.of(
        TRUTH, TARGETS, OptimSettings.model_validate({"class_weights": rule, "label_smoothing": smoothing}), share
    )


def loss_and_gradient(objective: Objective, batch: list[int], *, adds: bool) -> tuple[float, Tensor]:
    """Return the loss and gradient of one process for its share of a batch.

    The outputs come from a linear model with three outputs.
    """
    generator = torch.Generator().manual_seed(0)
    inputs, weights = (torch.randn(size, generator=generator) for size in ((len(TRUTH), 4), (4, 7)))
    weights.requires_grad_()
    mine = objective.share.of(batch) or batch[:1]
    outputs = inputs[mine] @ weights
    further = outputs.square().sum(1).mean() if adds else None
    loss = objective.loss((outputs[:, :3], outputs[:, 3:5], outputs[:, 5:]), further, TRUTH[mine], batch)
    return float(loss.detach()), torch.autograd.grad(loss, weights)[0]


@given(
    batch=st.lists(st.sampled_from(range(len(TRUTH))), min_size=1, unique=True),
    world=st.integers(2, 5),
    rule=st.sampled_from(["none", "balanced", "sqrt"]),
    smoothing=st.sampled_from([0.0, 0.1]),
    adds=st.booleans(),
)
def test_the_mean_over_processes_is_the_loss_of_the_whole_batch(
    batch: list[int], world: int, rule: str, smoothing: float, adds: bool
) -> None:
    """The mean loss over processes equals the loss of the whole batch for uneven and for empty shares."""
    whole, gradient = loss_and_gradient(objective_of(ALONE, rule, smoothing), batch, adds=adds)
    parts = [
        loss_and_gradient(objective_of(Share(rank, world), rule, smoothing), batch, adds=adds) for rank in range(world)
    ]
    assert sum(loss for loss, _ in parts) / world == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(sum(each for _, each in parts) / world, gradient, rtol=1e-4, atol=1e-6)


def test_an_empty_share_counts_for_nothing() -> None:
    loss, gradient = loss_and_gradient(objective_of(Share(1, 2), "balanced", 0.1), [2], adds=True)
    assert loss == 0 and not gradient.any()


def test_a_sample_counts_once_for_every_target_that_it_is_labelled_for() -> None:
    """Each sample counts once for every target that it is labelled for.

    The loss of certain and right answers is zero. The loss of guesses is the mean of the entropies of the
    targets.
    """
    objective = objective_of(ALONE, "none", 0.0)
    logits = (
        *(
            50 * torch.nn.functional.one_hot(TRUTH[:, i].clamp_min(0), classes).float()
            for i, classes in enumerate((3, 2))
        ),
        100 * (TRUTH[:, 2:].float() - 0.5),
    )
    assert float(objective.loss(logits, None, TRUTH, range(9))) == pytest.approx(0, abs=1e-6)
    guesses = torch.zeros(9, 3), torch.zeros(9, 2), torch.zeros(9, 2)
    assert float(objective.loss(guesses, None, TRUTH, range(9))) == pytest.approx(
        torch.tensor([3.0, 2.0, 2.0]).log().mean().item()
    )


def test_a_batch_that_nobody_has_labelled_for_a_target_has_no_loss_there() -> None:
    loss = objective_of(ALONE, "none", 0.0).loss(
        (torch.zeros(1, 3), torch.ones(1, 2), torch.zeros(1, 2)), None, TRUTH[2:3], [2]
    )
    assert float(loss) == pytest.approx((torch.tensor([3.0, 2.0]).log().sum() / 3).item())
