"""Rare classes: how often their samples are drawn, and how that shifts the logits.

A loss that weights rare classes shifts the probabilities of the model, especially if a batch holds none of them.
Instead, samples of rare classes are drawn more often, and the loss is corrected by how much (logit adjustment: Menon et
al. 2021): the logits remain those of the unchanged data, so nothing has to be undone at the end.
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

MOST_EVEN = 10  # ratio of the largest to the smallest class up to which samples are drawn evenly


def settle_class_weights(config: TrainConfig, train: Table) -> TrainConfig:
    """Return the configuration with ``optim.class_weights`` resolved if it is ``auto``.

    The result is ``drawn`` if a target with one label per sample has a largest class of more than ten times the
    smallest, else ``none``. Multi-label targets do not count here: their labels are independent, and get their own
    thresholds at export.
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
    """Return how often each sample is drawn per epoch ``(N,)``, with mean 1.

    The weight is the square root of the rarity of the sample's rarest label. ``truth`` is that of all samples, ``int64
    (N, columns)``.
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
    """Draw as many samples as there are, in random order, each as often as its weight (rounded up or down)."""
    ends = weights.cumsum(0) * (len(weights) / weights.sum()) + torch.rand((), generator=generator, dtype=torch.float64)
    begins = torch.cat([ends[-1:] - len(weights), ends[:-1]])
    drawn = torch.repeat_interleave(torch.arange(len(weights)), (ends.floor() - begins.floor()).long())
    found: list[int] = drawn[torch.randperm(len(drawn), generator=generator)].tolist()
    return found


def shifts_of_draws(weights: Tensor, truth: Tensor, targets: Sequence[Target]) -> list[Tensor]:
    """Return per target the shift of its logits caused by the draws ``(C,)``.

    It is the logarithm of how often the samples of each class are drawn.
    """

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
    """Return per target the logits ``(C,)`` of a model that knows only the frequencies of the labels."""
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
