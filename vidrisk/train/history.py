"""The history of a run: what became of every epoch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Epoch:
    """One line of a run's history. Without validation samples there is no ``val_loss`` and no ``metric``.

    Attributes:
        lr: learning rate at the end of the epoch by group of parameters; ``lora_lr`` and ``head_lr`` of before are not read.
    """

    epoch: int
    train_loss: float
    val_loss: float | None
    metric: float | None
    lr: dict[str, float] = field(default_factory=dict)
