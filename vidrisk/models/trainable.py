"""What training, export and inference ask of a model, whatever its architecture."""

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
        module: takes the stage's inputs in their order and gives a tensor, or a tuple of tensors in the order of its
            outputs.
        constants: values of the stage's constant inputs, by name.
        example: batch size → inputs in their order, to trace the module with; None takes noise.
        quantization: how an export quantises it: ``weights`` for a language model.
    """

    stage: Stage
    module: nn.Module
    constants: Arrays = field(default_factory=dict)
    example: Callable[[int], tuple[Tensor, ...]] | None = None
    quantization: Quantization = "integers"


class Trainable(nn.Module, ABC):
    """What training asks of any model.

    Attributes:
        own_parts: beginnings of the names of parameters and buffers that training writes whole, adapted or not.
    """

    own_parts: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def adapt(self, config: TrainConfig) -> None:
        """Add fresh adapters; all weights but those and the model's own parts are frozen."""

    @abstractmethod
    def merge(self) -> None:
        """Add adapters to the weights that they adapt, in place, so that ``adapt`` may add further ones."""

    @abstractmethod
    def parameter_groups(self, optim: OptimSettings) -> list[dict[str, Any]]:
        """Return what an optimiser trains: groups with a ``name``, ``params``, ``lr`` and ``weight_decay``."""

    def draw(self, generator: Generator) -> None:
        """Choose what the next training step does at random, besides dropout."""

    @abstractmethod
    def checkpoint_gradients(self) -> None:
        """Compute activations again in the backward pass, where the architecture can."""

    def blocks(self) -> Iterable[nn.Module]:
        """Return the large layers that are called as a whole: where weights lie in shards, they come together layer by layer."""
        return ()

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what was trained into a run directory, as safetensors."""

    @abstractmethod
    def load_backbone(self, folder: Path) -> None:
        """Read it back into a model without adapters, all but the head.

        Raises:
            BundleError: something is missing, or does not fit.
        """


class TrainableModel(Trainable):
    """``uint8 (B, T, H, W, 3)`` → logits ``(B, C)`` per target. Photos have T = 1.

    ``forward`` takes what ``lower`` gives just as well.
    """

    own_parts: ClassVar[tuple[str, ...]] = ("head.",)

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
    def standardise(self, batches: Callable[[], Iterable[Tensor]]) -> None:
        """Take from training inputs what trained layers are to begin with.

        Args:
            batches: begins a pass over inputs, frames or what ``lower`` gives of them; may be called several times.
        """

    def summaries(self, inputs: Tensor) -> Tensor | None:
        """Return what linear classifiers see of inputs ``(B, S)``; None where something else is trained in front of them."""
        return None

    def start_classifiers(self, weights: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Let the classifiers behind ``summaries`` begin with weights ``(C, S)`` and biases ``(C,)``, per target."""
        raise NotImplementedError

    @abstractmethod
    def adjust_classifiers(self, changes: Sequence[tuple[float, Tensor]]) -> None:
        """Multiply the logits of each target by a number, and add ``(C,)`` to them."""

    @abstractmethod
    def stages(self, contract: Contract) -> tuple[ModelStage, ...]:
        """Return the stages that compute the contract's answers, in the order in which they run."""

    def dynamic_vision(self) -> DynamicGraph | None:
        """Return the vision tower as a graph for images of any size, where the model has such a tower."""
        return None

    @abstractmethod
    def load_head(self, folder: Path) -> None:
        """Read the head back.

        Raises:
            BundleError: it is missing, or does not fit.
        """

    def forward(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Return logits, and what a training step adds to their loss; None where that is nothing."""
        return self.logits(self.features(inputs)), None
