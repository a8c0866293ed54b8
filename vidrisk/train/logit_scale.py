"""Calibration of probabilities of rare classes: a scale of the logits, and a shift along the class frequencies.

A regularised regression on few samples of a class is overconfident in the frequent classes: it never predicts the rare
one, although its scores separate them. Two numbers, fitted on samples outside its training set, correct that (Platt
1999).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vidrisk.runtimes.contract.contract import Target

STEPS = 100


@dataclass(frozen=True)
class LogitScale:
    """Calibration of logits: ``scale * logits - shift * prior``."""

    scale: float = 1.0
    shift: float = 0.0

    def of_logits(self, logits: Tensor, prior: Tensor) -> Tensor:
        """Return calibrated logits ``(N, C)``."""
        return logits * self.scale - self.shift * prior

    def of_classifier(self, weights: Tensor, bias: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights ``(C, S)`` and bias ``(C,)`` of a linear classifier with calibrated logits."""
        return weights * self.scale, bias * self.scale - self.shift * prior


def fit_logit_scale(logits: Tensor, truth: Tensor, target: Target, prior: Tensor) -> LogitScale:
    """Fit scale and shift by the likelihood of labels, with a normal prior of deviation 1 on log scale and shift.

    The prior keeps a few samples from moving probabilities far.

    Args:
        logits: ``(N, C)`` of labelled samples that were not trained on, N ≥ 1.
        truth: ``int64 (N,)``, or ``(N, C)`` for a multi-label target.
        target: the target of the logits.
        prior: logits of the class frequencies ``(C,)``.
    """
    logits, prior = logits.double(), prior.double()
    numbers = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([numbers], max_iter=STEPS, line_search_fn="strong_wolfe")

    def likelihood() -> Tensor:
        turned = logits * numbers[0].exp() - numbers[1] * prior
        if target.multi_label:
            return F.binary_cross_entropy_with_logits(turned, truth.double(), reduction="sum") / logits.shape[1]
        return F.cross_entropy(turned, truth, reduction="sum")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = likelihood() + 0.5 * numbers.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return LogitScale(float(numbers[0].detach().exp()), float(numbers[1].detach()))
