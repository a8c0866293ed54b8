"""Moving average of the weights during training, which is evaluated and kept in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from vidrisk.models.trainable import Trainable
from vidrisk.runtimes.contract.errors import BundleError

PREFIX = "average."


class WeightAverage:
    """Average the trained parameters over the steps, in float32.

    It is an exponential moving average, and all processes compute the same one. After step n the decay is at most
    (1 + n) / (10 + n), so that a short run does not keep the weights that it started with.

    Args:
        model: the model in training, not wrapped.
        decay: share of the previous average after a step, below 1. With 0 there is no average.
    """

    def __init__(self, model: Trainable, decay: float) -> None:
        self._decay = decay
        self._parameters = {name: one for name, one in model.named_parameters() if one.requires_grad} if decay else {}
        self._averages = {name: one.detach().float().clone() for name, one in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after a step, counted from 1."""
        kept = min(self._decay, (1 + step) / (10 + step))
        for name, parameter in self._parameters.items():
            self._averages[name].lerp_(parameter.float(), 1 - kept)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the parameters by their averages while the block runs."""
        own = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        try:
            self._write(self._averages)
            yield
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])

    def tensors(self) -> dict[str, Tensor]:
        """Return the averages by parameter, for a checkpoint."""
        return {PREFIX + name: average for name, average in self._averages.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the averages from a checkpoint.

        Raises:
            BundleError: one is missing, or has another shape.
        """
        for name, average in self._averages.items():
            found = tensors.get(PREFIX + name)
            if found is None or found.shape != average.shape:
                raise BundleError(f"the checkpoint lacks the average of {name}", fix="delete it and train again")
            average.copy_(found)
