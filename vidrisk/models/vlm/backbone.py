"""Interface of a backbone of a vision-language model, whatever models it consists of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vidrisk.export.trained import DynamicGraph
from vidrisk.models.activations import checkpoint_activations
from vidrisk.models.config import LoraSettings, OptimSettings, PromptPair, VlmSettings
from vidrisk.models.families.projections import projection_names
from vidrisk.models.vlm.conversation import Conversation, conversations_from_pairs
from vidrisk.models.vlm.layout import Grid, Layout, PromptLayout
from vidrisk.runtimes.contract.errors import SettingsError


class VlmBackbone(nn.Module, ABC):
    """A vision tower, a projector that turns its features into tokens, and a language model.

    Attributes:
        model: the module that adapters are added to; then a PEFT model.
        vision: frames → features of the N visual tokens of one run, ``uint8 (B, …) → (B, n, W)``; a part of ``model``.
        frames_per_run: frames that ``vision`` sees at a time.
        token: id of the token that is classified; -1 for a model that writes text, which has none.
        width: D, of the language model.
    """

    model: Any
    vision: nn.Module
    tokenizer: Any
    frames_per_run: int
    token: int
    settings: VlmSettings
    width: int

    @property
    def base(self) -> Any:
        """The model without PEFT's wrapper; its layers may be adapted."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    @abstractmethod
    def decoder(self) -> Any:
        """The language model without its output embeddings."""

    @abstractmethod
    def project(self, features: Tensor) -> Tensor:
        """Convert features ``(…, W)`` to tokens of the language model ``(…, k · D)``, as ``decoder.decode`` expects."""

    @property
    @abstractmethod
    def content(self) -> dict[str, str] | None:
        """Content item of the visual tokens in a conversation, as ``conversations_from_pairs`` takes it."""

    @property
    def language_model(self) -> Any:
        """The causal language model on its own, as transformers saves it.

        Raises:
            SettingsError: it is a part of a larger model.
        """
        raise SettingsError(
            "no text graph can be built from a language model whose positions of visual tokens are in space and time",
            allowed="composed models",
            fix="write the merged model, and use a model server: docs/risk-training.md",
        )

    @property
    def photo_mark(self) -> str | None:
        """Text that a chat template writes for a photo; None if photos are given in the text as ``MARK``."""
        return None

    @property
    def photo_grid(self) -> Grid:
        """Visual tokens of one photo."""
        vision: Any = self.vision
        return Grid(1, vision.height, vision.width)

    def layouts(self, pairs: Sequence[PromptPair], frames: int, fps: float, most: int) -> list[PromptLayout]:
        """Return the layouts of prompts, as ``layout`` does."""
        conversations = conversations_from_pairs(self.tokenizer, pairs, self.settings, visual=self.content)
        return [self.layout(conversation, frames, fps, most) for conversation in conversations]

    @abstractmethod
    def layout(self, conversation: Conversation, frames: int, fps: float, most: int) -> PromptLayout:
        """Return the layout of a prompt around the visual tokens of a window.

        Args:
            conversation: the prompt.
            frames: of the window.
            fps: frames per second, for positions and times.
            most: greatest number of tokens.
        """

    @abstractmethod
    def positions(self, layout: Layout, fps: float) -> Tensor:
        """Return positions of a layout's tokens, as its decoder expects them."""

    @abstractmethod
    def vision_stage(self) -> nn.Module:
        """Return the module of the vision stage: ``vision``, and ``project`` if that belongs to it."""

    def dynamic_vision(self) -> DynamicGraph | None:
        """Return the vision tower as a graph for images of any size, or None if it does not support them."""
        return None

    @property
    @abstractmethod
    def projector(self) -> nn.Module:
        """Module that turns features into visual tokens, and that can be trained whole."""

    @property
    @abstractmethod
    def has_own_projector(self) -> bool:
        """Whether the projector has no pretrained weights and runs after ``vision``."""

    @abstractmethod
    def standardise(self, features: Tensor) -> None:
        """Initialise a new projector from training features ``(M, W)``."""

    @property
    @abstractmethod
    def tower(self) -> nn.Module:
        """The vision tower, for adapters."""

    def projector_lr(self, optim: OptimSettings) -> float:
        """Return the learning rate of the projector; with 0 it is not trained."""
        return optim.projector_lr if optim.projector_lr is not None else 1e-3 if self.has_own_projector else 0.0

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids ``(P,)`` → ``(P, D)``."""
        rows: Tensor = self.base.get_input_embeddings()(ids)
        return rows

    def score_tokens(self, states: Tensor) -> Tensor:
        """Score the next token after each state, by the output embeddings."""
        scores: Tensor = self.base.get_output_embeddings()(states)
        return scores

    def lora_paths(self, lora: LoraSettings) -> list[str]:
        """Return the paths, from ``model``, of the layers that adapters can be added to."""
        chosen = {"language": self.decoder, "vision": self.tower}
        names = {id(module): name for name, module in self.base.named_modules()}
        found = []
        for part in lora.parts:
            prefix = names[id(chosen[part])]
            found += [
                f"{prefix}.{path}"
                for path in projection_names(chosen[part], lora.last_blocks)
                if not any(
                    f"{prefix}.{path}.".startswith(f"{projector}.") for projector in self._projector_names(names)
                )
            ]
        return found

    def _projector_names(self, names: dict[int, str]) -> list[str]:
        return [names[id(module)] for module in self.projector.modules() if id(module) in names]

    def runs_from_frames(self, frames: Tensor) -> Tensor:
        """Split frames ``(B, T, H, W, 3)`` into runs of ``vision``, ``(B · runs, …)``."""
        if self.frames_per_run == 1:
            return frames.flatten(0, 1)
        return frames.reshape(-1, self.frames_per_run, *frames.shape[2:])

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Run the tower on frames ``uint8 (B, T, H, W, 3)`` → features of visual tokens ``(B, runs, n, W)``."""
        features: Tensor = self.vision(self.runs_from_frames(frames))
        return features.reshape(frames.shape[0], -1, *features.shape[1:])

    def checkpoint_gradients(self) -> None:
        """Recompute activations of blocks in the backward pass, also those of a tower that is part of the model."""
        checkpoint_activations(self.base)
