"""The interface between the loop and the training data: batches, their loss, and the evaluation of weights."""

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
    """Random number generators of an epoch.

    Attributes:
        shared: the same in all processes.
        own: specific to this process.
        order: for the order of samples; the same in all processes.
    """

    shared: torch.Generator
    own: torch.Generator
    order: torch.Generator


@dataclass(frozen=True)
class Judgement:
    """Figures of weights on validation samples.

    Attributes:
        metric: the figure that is highest for the best epoch.
        figures: further ones, by name.
    """

    loss: float
    metric: float
    figures: dict[str, float] = field(default_factory=dict)


class Work(ABC):
    """Samples of one kind, and one loss.

    Attributes:
        names: names of the training samples, for messages.
        metric: name of the figure that ``judge`` compares epochs by.
        begins_trained: whether the model gives useful predictions after ``standardise``.
    """

    names: Sequence[str]
    metric: str
    begins_trained: bool = False

    @abstractmethod
    def prepare(self, on_progress: OnProgress) -> None:
        """Compute in advance what every epoch would otherwise recompute; the model is already on its device."""

    @abstractmethod
    def standardise(self, on_progress: OnProgress) -> None:
        """Initialise trained layers from the training samples."""

    def batches(self, size: int, order: torch.Generator) -> list[list[int]]:
        """Return the numbers of the samples of every batch of an epoch, the same in all processes.

        All epochs have the same number of batches.
        """
        found = self.order_samples(order)
        return [found[begin : begin + size] for begin in range(0, len(found), size)]

    def order_samples(self, order: torch.Generator) -> list[int]:
        """Draw the samples of an epoch, by their numbers: each once, in random order."""
        torch.empty((), dtype=torch.int64).random_(generator=order)  # the first draw of a shuffling DataLoader
        found: list[int] = torch.randperm(len(self.names), generator=order).tolist()
        return found

    @abstractmethod
    def inputs(self, batches: Sequence[Sequence[int]], draws: Draws) -> Iterator[Any]:
        """Yield this process's inputs of each batch, on its device.

        A process without a share of a batch computes some sample of it nevertheless, with weight 0.
        """

    @abstractmethod
    def loss(self, model: Any, inputs: Any, batch: Sequence[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the loss of this process's share, and values of every sample that must be finite, ``(B, …)``.

        The mean of the loss over the processes is that of the whole batch, and the mean of the gradients its gradient.

        Args:
            model: the model as wrapped for training.
            inputs: from ``inputs``.
            batch: numbers of the samples of all processes.
        """

    @abstractmethod
    def judge(self, on_progress: OnProgress) -> Judgement | None:
        """Evaluate the weights; return None if there are no validation samples."""
