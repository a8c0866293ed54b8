"""The loss of a batch, and the weight of one process's part in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from vidrisk.data.targets import NOT_LABELLED
from vidrisk.models.config import OptimSettings
from vidrisk.runtimes.contract.contract import Target
from vidrisk.train.shares import Share

Weights = Sequence[Tensor | None]


def columns_of_targets(targets: Sequence[Target]) -> tuple[slice, ...]:
    """Return the columns of the truth that belong to each target: one, or one per label of a multi-label target."""
    widths = [len(target.labels) if target.multi_label else 1 for target in targets]
    ends = np.cumsum(widths).tolist()
    return tuple(slice(end - width, end) for end, width in zip(ends, widths, strict=True))


def truth_tensor(truth: dict[str, npt.NDArray[np.int64]], targets: Sequence[Target]) -> Tensor:
    """Concatenate the truth of all targets: ``int64 (N, columns)``."""
    return torch.from_numpy(
        np.concatenate(
            [truth[target.name].reshape(-1, len(target.labels) if target.multi_label else 1) for target in targets],
            axis=1,
        )
    )


def class_weights(truth: Tensor, targets: Sequence[Target], rule: str) -> list[Tensor | None]:
    """Return per target a weight per class: the inverse frequency, or its square root, with mean 1 over the samples.

    A class without samples counts as one with a single sample. For a multi-label target the weight is that of samples
    with the label, relative to those without it: the ratio of their numbers, or its square root.
    """
    if rule in ("none", "drawn"):
        return [None] * len(targets)
    power = -1.0 if rule == "balanced" else -0.5
    weights: list[Tensor | None] = []
    for target, columns in zip(targets, columns_of_targets(targets), strict=True):
        known = truth[:, columns][truth[:, columns.start] != NOT_LABELLED]
        if target.multi_label:
            have = known.sum(dim=0).float()
            weights.append((have.clamp_min(1) / (len(known) - have).clamp_min(1)).pow(power))
            continue
        counts = torch.bincount(known[:, 0], minlength=len(target.labels)).float()
        inverse = counts.clamp_min(1).pow(power)
        weights.append(inverse * counts.sum() / (inverse * counts).sum())
    return weights


@dataclass(frozen=True)
class Objective:
    """Cross-entropy over classes, or over each label of a multi-label target.

    The loss is the mean over the targets, plus the model's additional loss. A sample without a label for a target does
    not count there.

    Args:
        targets: the trained targets.
        truth: truth of all training samples, ``int64 (N, columns)``.
        weights: per target one weight per class, or None.
        shifts: per target an offset of the logits in the loss ``(C,)``, for draws in which some classes are more
            frequent than in the data; None if samples are drawn evenly.
    """

    targets: Sequence[Target]
    truth: Tensor
    weights: Weights
    smoothing: float
    share: Share
    shifts: Sequence[Tensor] | None = None

    @classmethod
    def of(
        cls,
        truth: Tensor,
        targets: Sequence[Target],
        optim: OptimSettings,
        share: Share,
        shifts: Sequence[Tensor] | None = None,
    ) -> Objective:
        """Create the objective that the settings describe."""
        weights = class_weights(truth.to(share.device), targets, optim.class_weights)
        return cls(
            targets,
            truth,
            weights,
            optim.label_smoothing,
            share,
            None if shifts is None else [shift.to(share.device) for shift in shifts],
        )

    def loss(self, logits: tuple[Tensor, ...], further: Tensor | None, truth: Tensor, batch: Sequence[int]) -> Tensor:
        """Return the loss of this process's share of a batch.

        Its mean over the processes is the loss of the whole batch, and the mean of the gradients is its gradient.

        Args:
            logits: per target ``(B, C)``.
            further: the mean over the share of the model's additional loss.
            truth: truth of the share; if the share is empty, of any sample of the batch.
            batch: numbers of the samples of all processes.
        """
        if self.shifts is not None:
            logits = tuple(output.float() + shift for output, shift in zip(logits, self.shifts, strict=True))
        if self.share.world == 1:
            loss = mean_loss(self.targets, logits, truth, self.weights, self.smoothing)
            return loss if further is None else loss + further
        losses = torch.stack(losses_of_targets(self.targets, logits, truth, self.weights, self.smoothing))
        whole, mine = self.truth[list(batch)], self.truth[self.share.of(batch)]
        parts = [
            _weight(target, mine[:, columns], one) / max(_weight(target, whole[:, columns], one), 1e-12)
            for target, columns, one in zip(self.targets, columns_of_targets(self.targets), self.weights, strict=True)
        ]
        loss = (losses * torch.tensor(parts, device=losses.device)).mean()
        if further is not None:
            loss = loss + further * (len(mine) / len(whole))
        return loss * self.share.world


def _weight(target: Target, truth: Tensor, weights: Tensor | None) -> float:
    """Return the weight of samples in a mean: torch divides by the sum of their classes' weights."""
    known = truth[truth[:, 0] != NOT_LABELLED]
    return float(len(known)) if weights is None or target.multi_label else float(weights.cpu()[known[:, 0]].sum())


def losses_of_targets(
    targets: Sequence[Target], logits: tuple[Tensor, ...], truth: Tensor, weights: Weights, smoothing: float
) -> list[Tensor]:
    """Return the loss of each target, or 0 if no sample is labelled for it."""
    losses = []
    for target, columns, output, weight in zip(targets, columns_of_targets(targets), logits, weights, strict=True):
        known = truth[:, columns.start] != NOT_LABELLED
        output, wanted = output.float()[known], truth[:, columns][known]
        if not len(wanted):
            losses.append(output.sum())
        elif target.multi_label:
            soft = wanted.float() * (1 - smoothing) + 0.5 * smoothing
            losses.append(F.binary_cross_entropy_with_logits(output, soft, pos_weight=weight))
        else:
            losses.append(F.cross_entropy(output, wanted[:, 0], weight=weight, label_smoothing=smoothing))
    return losses


def mean_loss(
    targets: Sequence[Target], logits: tuple[Tensor, ...], truth: Tensor, weights: Weights, smoothing: float
) -> Tensor:
    """Return the mean over targets of the (weighted) mean over samples."""
    return torch.stack(losses_of_targets(targets, logits, truth, weights, smoothing)).mean()
