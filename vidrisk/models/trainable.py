"""What training, export and inference ask of a model, whatever its architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vidrisk.models.config import OptimSettings
from vidrisk.runtimes.contract.constants import Arrays
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.stages import Stage


@dataclass(frozen=True)
class ModelStage:
    """One stage of a model, and the module that computes it.

    Attributes:
        module: takes the stage's inputs in their order and gives a tensor, or a tuple of tensors in the order of its outputs.
        constants: values of the stage's constant inputs, by name.
        example: batch size → inputs in their order, to trace the module with; None takes noise.
    """

    stage: Stage
    module: nn.Module
    constants: Arrays = field(default_factory=dict)
    example: Callable[[int], tuple[Tensor, ...]] | None = None


class TrainableModel(nn.Module, ABC):
    """``uint8 (B, T, H, W, 3)`` → logits ``(B, C)`` per target. Photos have T = 1.

    ``forward`` takes what ``lower`` gives just as well.
    """

    @property
    @abstractmethod
    def has_frozen_part(self) -> bool:
        """Whether ``lower`` computes anything: what it gives is kept between epochs then."""

    @abstractmethod
    def lower(self, frames: Tensor) -> Tensor:
        """Run the part below every trained layer; return the frames where there is none."""

    @abstractmethod
    def features(self, inputs: Tensor) -> Tensor:
        """Run everything below the head on frames, or on what ``lower`` gave; ``(…, D)``."""

    @abstractmethod
    def logits(self, features: Tensor) -> tuple[Tensor, ...]:
        """Run the head."""

    @abstractmethod
    def standardise_by(self, features: Tensor) -> None:
        """Take from training features ``(N, D)`` what the head is to begin with."""

    @abstractmethod
    def parameter_groups(self, optim: OptimSettings) -> list[dict[str, Any]]:
        """Return what an optimiser trains: adapters first, the head last, each with its ``lr`` and ``weight_decay``."""

    @abstractmethod
    def checkpoint_gradients(self) -> None:
        """Compute activations again in the backward pass, where the architecture can."""

    @abstractmethod
    def stages(self, contract: Contract) -> tuple[ModelStage, ...]:
        """Return the stages that compute the contract's answers, in the order in which they run."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what was trained into a run directory, as safetensors."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read it back into a model that was built without adapters.

        Raises:
            BundleError: something is missing, or does not fit.
        """

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return self.logits(self.features(inputs))
