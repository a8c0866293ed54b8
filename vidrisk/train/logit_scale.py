"""Make probabilities believable where classes are rare: a scale of the logits, and a shift along the classes' frequencies.

A regression on few samples of a class that is kept from overfitting is too sure of the frequent classes: it never
answers the rare one, although its scores tell them apart. Two numbers, fitted on samples that it has not learnt from,
mend that (Platt 1999).
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
    """What turns logits into believable ones: ``scale * logits - shift * prior``."""

    scale: float = 1.0
    shift: float = 0.0

    def of_logits(self, logits: Tensor, prior: Tensor) -> Tensor:
        """Turn logits ``(N, C)``."""
        return logits * self.scale - self.shift * prior

    def of_classifier(self, weights: Tensor, bias: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights ``(C, S)`` and bias ``(C,)`` of a linear classifier whose logits it turns."""
        return weights * self.scale, bias * self.scale - self.shift * prior


def fit_logit_scale(logits: Tensor, truth: Tensor, target: Target, prior: Tensor) -> LogitScale:
    """Fit scale and shift by the likelihood of labels, and by a normal prior of deviation 1 on log scale and shift.

    The prior keeps what a few samples say from moving probabilities far.

    Args:
        logits: ``(N, C)`` of samples that were not learnt from and are labelled, N ≥ 1.
        truth: ``int64 (N,)``, or ``(N, C)`` of a multi-label target.
        prior: logits of the classes' frequencies ``(C,)``.
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
