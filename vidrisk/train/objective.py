"""The loss of a batch, and what one process's part of it counts for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vidrisk.models.config import OptimSettings
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.train.shares import Share

Weights = Sequence[Tensor | None]


def class_weights(truth: Tensor, contract: Contract, rule: str) -> list[Tensor | None]:
    """Return per target a weight per class: the inverse frequency, or its square root, of mean 1 over the samples.

    A class without samples weighs as much as one with a single sample.
    """
    if rule == "none":
        return [None] * len(contract.targets)
    weights: list[Tensor | None] = []
    for i, target in enumerate(contract.targets):
        counts = torch.bincount(truth[:, i], minlength=len(target.labels)).float()
        inverse = counts.clamp_min(1).pow(-1 if rule == "balanced" else -0.5)
        weights.append(inverse * counts.sum() / (inverse * counts).sum())
    return weights


@dataclass(frozen=True)
class Objective:
    """Cross-entropy, the mean over targets, plus what the model adds.

    Args:
        truth: of all training samples, ``int64 (N, targets)``.
        weights: per target one of each class, or None.
    """

    truth: Tensor
    weights: Weights
    smoothing: float
    share: Share

    @classmethod
    def of(cls, truth: Tensor, contract: Contract, optim: OptimSettings, share: Share) -> Objective:
        """Describe what settings ask for."""
        weights = class_weights(truth.to(share.device), contract, optim.class_weights)
        return cls(truth, weights, optim.label_smoothing, share)

    def loss(self, logits: tuple[Tensor, ...], further: Tensor | None, truth: Tensor, batch: Sequence[int]) -> Tensor:
        """Return the loss of this process's share of a batch.

        The mean of it over the processes is the loss of the whole batch, and the mean of the gradients its gradient.

        Args:
            further: the mean over the share of what the model adds.
            truth: of the share; of some sample of the batch where the share has none.
            batch: numbers of the samples of all processes.
        """
        if self.share.world == 1:
            loss = cross_entropy(logits, truth, self.weights, self.smoothing)
            return loss if further is None else loss + further
        losses = torch.stack(cross_entropies(logits, truth, self.weights, self.smoothing))
        whole, mine = self.truth[list(batch)], self.truth[self.share.of(batch)]
        parts = [_weight(mine[:, i], one) / _weight(whole[:, i], one) for i, one in enumerate(self.weights)]
        loss = (losses * torch.tensor(parts, device=losses.device)).mean()
        if further is not None:
            loss = loss + further * (len(mine) / len(whole))
        return loss * self.share.world


def _weight(truth: Tensor, weights: Tensor | None) -> float:
    """What samples count for in a mean: torch divides by the sum of their classes' weights."""
    return float(len(truth)) if weights is None else float(weights.cpu()[truth].sum())


def cross_entropies(logits: tuple[Tensor, ...], truth: Tensor, weights: Weights, smoothing: float) -> list[Tensor]:
    return [F.cross_entropy(output.float(), truth[:, i], weight=weights[i], label_smoothing=smoothing)
            for i, output in enumerate(logits)]


def cross_entropy(logits: tuple[Tensor, ...], truth: Tensor, weights: Weights, smoothing: float) -> Tensor:
    """Return the mean over targets of the (weighted) mean over samples."""
    return torch.stack(cross_entropies(logits, truth, weights, smoothing)).mean()
