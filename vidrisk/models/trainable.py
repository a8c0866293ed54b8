"""Interface of a model for training, export and inference, whatever its architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Generator, Tensor, nn

from vidrisk.export.trained import DynamicGraph
from vidrisk.models.config import OptimSettings, TrainConfig
from vidrisk.runtimes.contract.choices import Quantization
from vidrisk.runtimes.contract.constants import Arrays
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.stages import Stage


@dataclass(frozen=True)
class ModelStage:
    """One stage of a model, and the module that computes it.

    Attributes:
        module: takes the stage's inputs in order and returns a tensor, or a tuple of tensors in the order of its
            outputs.
        constants: values of the stage's constant inputs, by name.
        example: batch size → inputs in order, to trace the module with; None uses noise.
        quantization: how an export quantises it: ``weights`` for a language model.
    """

    stage: Stage
    module: nn.Module
    constants: Arrays = field(default_factory=dict)
    example: Callable[[int], tuple[Tensor, ...]] | None = None
    quantization: Quantization = "integers"


class Trainable(nn.Module, ABC):
    """Interface of any model for training.

    Attributes:
        own_parts: prefixes of the names of parameters and buffers that training saves whole, adapted or not.
    """

    own_parts: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def adapt(self, config: TrainConfig) -> None:
        """Add fresh adapters; freeze all weights except those and the model's own parts."""

    @abstractmethod
    def merge(self) -> None:
        """Merge adapters into the weights that they adapt, in place, so that ``adapt`` can add further ones."""

    @abstractmethod
    def parameter_groups(self, optim: OptimSettings) -> list[dict[str, Any]]:
        """Return the parameter groups of an optimiser, with ``name``, ``params``, ``lr`` and ``weight_decay``."""

    def draw(self, generator: Generator) -> None:
        """Make the random choices of the next training step, except dropout."""

    @abstractmethod
    def checkpoint_gradients(self) -> None:
        """Recompute activations in the backward pass, if the architecture supports it."""

    def blocks(self) -> Iterable[nn.Module]:
        """Return the large layers that are called as a whole; sharded weights are gathered layer by layer."""
        return ()

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the trained weights into a run directory, as safetensors."""

    @abstractmethod
    def load_backbone(self, folder: Path) -> None:
        """Read all trained weights except the head into a model without adapters.

        Raises:
            BundleError: something is missing, or does not fit.
        """


class TrainableModel(Trainable):
    """A classifier: ``uint8 (B, T, H, W, 3)`` → logits ``(B, C)`` per target; photos have T = 1.

    ``forward`` also takes the output of ``lower``.
    """

    own_parts: ClassVar[tuple[str, ...]] = ("head.",)

    @property
    @abstractmethod
    def has_frozen_part(self) -> bool:
        """Whether ``lower`` computes anything; its output is then kept between epochs."""

    @abstractmethod
    def lower(self, frames: Tensor) -> Tensor:
        """Run the part below every trained layer, or return the frames if there is none."""

    @abstractmethod
    def features(self, inputs: Tensor) -> Tensor:
        """Run everything below the head on frames, or on the output of ``lower``; ``(…, D)``."""

    @abstractmethod
    def logits(self, features: Tensor) -> tuple[Tensor, ...]:
        """Run the head."""

    @abstractmethod
    def standardise(self, batches: Callable[[], Iterable[Tensor]]) -> None:
        """Initialise trained layers from training inputs.

        Args:
            batches: starts a pass over inputs, frames or outputs of ``lower``; may be called several times.
        """

    def summaries(self, inputs: Tensor) -> Tensor | None:
        """Return the inputs of linear classifiers ``(B, S)``, or None if other layers are trained before them."""
        return None

    def start_classifiers(self, weights: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Initialise the classifiers after ``summaries`` with weights ``(C, S)`` and biases ``(C,)``, per target."""
        raise NotImplementedError

    @abstractmethod
    def adjust_classifiers(self, changes: Sequence[tuple[float, Tensor]]) -> None:
        """Scale the logits of each target by a number, and add ``(C,)`` to them."""

    @abstractmethod
    def stages(self, contract: Contract) -> tuple[ModelStage, ...]:
        """Return the stages that compute the contract's answers, in order of execution."""

    def dynamic_vision(self) -> DynamicGraph | None:
        """Return the vision tower as a graph for images of any size, or None if there is no such tower."""
        return None

    @abstractmethod
    def load_head(self, folder: Path) -> None:
        """Read the head.

        Raises:
            BundleError: it is missing, or does not fit.
        """

    def forward(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Return logits, and a term to add to the training loss, or None."""
        return self.logits(self.features(inputs)), None
