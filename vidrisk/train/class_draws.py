"""Classes that are much rarer than others: how often their samples are drawn, and what that does to the logits.

A loss that weighs rare classes moves the probabilities of the model, the more so where a batch holds none of them. Here
samples of rare classes are drawn more often, and the loss is told by how much (logit adjustment: Menon et al. 2021):
the logits stay those of the data as they are, and nothing has to be taken back at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from vidrisk.data import Table
from vidrisk.data.skew import ratio_of_classes
from vidrisk.data.targets import NOT_LABELLED
from vidrisk.models.config import TrainConfig
from vidrisk.runtimes.contract.contract import Target
from vidrisk.train.objective import columns_of_targets

log = logging.getLogger(__name__)

MOST_EVEN = 10  # samples of the largest class for each of the smallest, up to which classes are left as they are


def settle_class_weights(config: TrainConfig, train: Table) -> TrainConfig:
    """Return the configuration with ``optim.class_weights`` decided, where it is ``auto``.

    ``drawn`` where a target with one label per sample has classes of which the largest is more than ten times the
    smallest, else
    ``none``: labels of which any number may hold are counted one by one, and get thresholds of their own at export.
    """
    if config.optim.class_weights != "auto":
        return config
    ratio = max(
        (ratio_of_classes(train, name) for name in train.target_names if name not in train.multi_targets), default=1.0
    )
    rule = "drawn" if ratio > MOST_EVEN else "none"
    log.info("class weights %s: the largest class has %.0f times the samples of the smallest", rule, ratio)
    return config.model_copy(update={"optim": config.optim.model_copy(update={"class_weights": rule})})


def draw_weights(truth: Tensor, targets: Sequence[Target]) -> Tensor:
    """Return how often each sample is drawn per epoch ``(N,)``, of mean 1: by the square root of how rare its rarest label is.

    Args:
        truth: of all samples, ``int64 (N, columns)``.
    """
    weights = torch.ones(len(truth), dtype=torch.float64)
    for columns in columns_of_targets(targets):
        of_target = truth[:, columns]
        known = of_target[:, 0] != NOT_LABELLED
        for column in of_target.T:
            counts = torch.bincount(column[known], minlength=2).double()
            rarity = (known.sum() / counts.clamp_min(1)).sqrt()
            weights[known] = torch.maximum(weights[known], rarity[column[known]])
    return weights / weights.mean()


def draw_order(weights: Tensor, generator: torch.Generator) -> list[int]:
    """Draw as many samples as there are, each as often as its weight says, rounded up or down, in random order."""
    ends = weights.cumsum(0) * (len(weights) / weights.sum()) + torch.rand((), generator=generator, dtype=torch.float64)
    begins = torch.cat([ends[-1:] - len(weights), ends[:-1]])
    drawn = torch.repeat_interleave(torch.arange(len(weights)), (ends.floor() - begins.floor()).long())
    found: list[int] = drawn[torch.randperm(len(drawn), generator=generator)].tolist()
    return found


def shifts_of_draws(weights: Tensor, truth: Tensor, targets: Sequence[Target]) -> list[Tensor]:
    """Return per target by how much draws raise its logits ``(C,)``: the logarithm of how often its samples are drawn."""

    def mean_weight(chosen: Tensor) -> Tensor:
        return weights[chosen].mean() if chosen.any() else weights.new_ones(())

    found = []
    for target, columns in zip(targets, columns_of_targets(targets), strict=True):
        of_target = truth[:, columns]
        if target.multi_label:
            ratios = [mean_weight(column == 1) / mean_weight(column == 0) for column in of_target.T]
        else:
            ratios = [mean_weight(of_target[:, 0] == number) for number in range(len(target.labels))]
        found.append(torch.stack(ratios).log().float())
    return found


def prior_logits(truth: Tensor, targets: Sequence[Target]) -> list[Tensor]:
    """Return per target the logits ``(C,)`` of a model that knows nothing of a sample but how frequent labels are."""
    found = []
    for target, columns in zip(targets, columns_of_targets(targets), strict=True):
        known = truth[:, columns][truth[:, columns.start] != NOT_LABELLED]
        if target.multi_label:
            have = known.sum(dim=0).float().clamp_min(1)
            found.append((have / (len(known) - have).clamp_min(1)).log())
        else:
            counts = torch.bincount(known[:, 0], minlength=len(target.labels)).float().clamp_min(1)
            found.append((counts / counts.sum()).log())
    return found
