"""The history of a run: the figures of every epoch, and the choice of the best one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Epoch:
    """One line of a run's history. Without validation samples, ``val_loss`` and ``metric`` are None.

    Attributes:
        epoch: counted from 1; 0 is the state before the first step, if that is a candidate.
        train_loss: None for epoch 0.
        lr: learning rate at the end of the epoch by group of parameters; the ``lora_lr`` and ``head_lr`` of older
            versions are not read.
    """

    epoch: int
    train_loss: float | None
    val_loss: float | None
    metric: float | None
    lr: dict[str, float] = field(default_factory=dict)


def best_epoch(history: Sequence[Epoch]) -> int:
    """Return the number of the epoch with the best metric; without a metric, the last epoch.

    Ties are broken by the smallest loss.
    """
    return max(history, key=lambda e: (e.metric if e.metric is not None else 0.0, -(e.val_loss or 0.0), e.epoch)).epoch


def is_stale(history: Sequence[Epoch], patience: int | None) -> bool:
    """Return whether the last ``patience`` epochs have brought no better metric, nor the same with a smaller loss."""
    figures = [(epoch.metric, -(epoch.val_loss or 0.0)) for epoch in history if epoch.metric is not None]
    return patience is not None and bool(figures) and len(figures) - 1 - figures.index(max(figures)) >= patience
