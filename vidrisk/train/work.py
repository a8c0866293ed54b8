"""What the loop trains on: where batches come from, what one costs, how weights are judged. The loop knows no more of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vidrisk.runtimes.contract.progress import OnProgress


@dataclass(frozen=True)
class Draws:
    """Random numbers of an epoch.

    Attributes:
        shared: the same in all processes.
        own: of this process.
        order: of samples; the same in all processes.
    """

    shared: torch.Generator
    own: torch.Generator
    order: torch.Generator


@dataclass(frozen=True)
class Judgement:
    """How well weights do on validation samples.

    Attributes:
        metric: that the best epoch has most of.
        figures: further ones, by name.
    """

    loss: float
    metric: float
    figures: dict[str, float] = field(default_factory=dict)


class Work(ABC):
    """Samples of one kind, and one loss.

    Attributes:
        names: of the training samples, for messages.
        metric: name of what ``judge`` compares epochs by.
        begins_trained: whether what ``standardise`` leaves is a model that answers, and not one that knows nothing yet.
    """

    names: Sequence[str]
    metric: str
    begins_trained: bool = False

    @abstractmethod
    def prepare(self, on_progress: OnProgress) -> None:
        """Compute what every epoch would else compute anew; the model is in its place."""

    @abstractmethod
    def standardise(self, on_progress: OnProgress) -> None:
        """Take from training samples what trained layers are to begin with."""

    def batches(self, size: int, order: torch.Generator) -> list[list[int]]:
        """Numbers of the samples of every batch of an epoch, the same in all processes. Batches are as many in every epoch."""
        found = self.order_samples(order)
        return [found[begin : begin + size] for begin in range(0, len(found), size)]

    def order_samples(self, order: torch.Generator) -> list[int]:
        """Draw the samples of an epoch, by their numbers: each once, in random order."""
        torch.empty((), dtype=torch.int64).random_(generator=order)  # what a loader that shuffles draws first
        found: list[int] = torch.randperm(len(self.names), generator=order).tolist()
        return found

    @abstractmethod
    def inputs(self, batches: Sequence[Sequence[int]], draws: Draws) -> Iterator[Any]:
        """What this process computes of each batch, on its device.

        A process without a share of a batch computes some of it all the same, and counts for nothing.
        """

    @abstractmethod
    def loss(self, model: Any, inputs: Any, batch: Sequence[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the loss of this process's share, and what of every sample must be finite, ``(B, …)``.

        The mean of the loss over the processes is that of the whole batch, and the mean of the gradients its gradient.

        Args:
            model: as it is called in training.
            batch: numbers of the samples of all processes.
        """

    @abstractmethod
    def judge(self, on_progress: OnProgress) -> Judgement | None:
        """Judge the weights; None where there are no validation samples."""
