"""The history of a run: what became of every epoch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """One line of a run's history. Without validation samples there is no ``val_loss`` and no ``metric``."""

    epoch: int
    train_loss: float
    val_loss: float | None
    metric: float | None
    lora_lr: float
    head_lr: float
