"""Clip classifier: an encoder and a head, two stages that are trained jointly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrisk.export.convert.merge import merge_adapters
from vidrisk.models.activations import checkpoint_activations
from vidrisk.models.config import DEFAULT_HEAD_LR, OptimSettings, TrainConfig
from vidrisk.models.encoders import Encoder
from vidrisk.models.heads import Head
from vidrisk.models.lora import add_lora, load_adapter, save_adapter
from vidrisk.models.trainable import ModelStage, TrainableModel
from vidrisk.models.weights import load_state, save_tensors
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.stages import frame_encoder_stages, window_encoder_stages

ADAPTER, HEAD = "adapter", "head.safetensors"


class ClipClassifier(TrainableModel):
    """An encoder of frames or windows, and a head.

    ``lower`` returns floats: ``(B, T, …)``, ``(B, T / 2, …)`` if the encoder sees pairs, or ``(B, …)`` if it sees
    windows.
    """

    def __init__(self, encoder: Encoder, head: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    @property
    def has_frozen_part(self) -> bool:
        return self.encoder.is_frozen or self.encoder.frozen_blocks > 0

    def lower(self, frames: Tensor) -> Tensor:
        if self.encoder.sees_windows:
            return self.encoder.lower(frames)
        hidden = self.encoder.lower(self._groups(frames).flatten(0, 1))
        return hidden.reshape(len(frames), -1, *hidden.shape[1:])

    def _groups(self, frames: Tensor) -> Tensor:
        """Split frames ``(B, T, H, W, 3)`` into the encoder's inputs.

        Returns ``(B, T / n, n, H, W, 3)`` for groups of n frames; for n = 1, the frames unchanged.
        """
        group = self.encoder.group
        return frames if group == 1 else frames.reshape(len(frames), -1, group, *frames.shape[2:])

    def features(self, inputs: Tensor) -> Tensor:
        """Compute features from frames, or from the output of ``lower``.

        Returns ``(B, T, D)``; for pairs ``(B, T / 2, 2D)``, for windows ``(B, D)``.
        """
        is_raw = inputs.dtype == torch.uint8
        run = self.encoder if is_raw else self.encoder.upper
        if self.encoder.sees_windows:
            of_windows: Tensor = run(inputs)
            return of_windows
        features: Tensor = run((self._groups(inputs) if is_raw else inputs).flatten(0, 1))
        return features.reshape(len(inputs), -1, features.shape[-1])

    def logits(self, features: Tensor) -> tuple[Tensor, ...]:
        logits: tuple[Tensor, ...] = self.head(features)
        return logits

    def standardise(self, batches: Callable[[], Iterable[Tensor]]) -> None:
        self.head.standardise_by(self.features(inputs).flatten(0, -2) for inputs in batches())

    def summaries(self, inputs: Tensor) -> Tensor | None:
        return self.head.summary(self.features(inputs)) if self.head.is_linear else None

    def start_classifiers(self, weights: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.head.start_classifiers(weights)

    def adjust_classifiers(self, changes: Sequence[tuple[float, Tensor]]) -> None:
        self.head.adjust_classifiers(changes)

    def adapt(self, config: TrainConfig) -> None:
        if not self.encoder.is_frozen:
            add_lora(self.encoder, config.lora)

    def freeze(self, head: Head) -> None:
        """Exclude the encoder from training, in place, and attach another head; adapters stay unchanged."""
        self.encoder.requires_grad_(False)
        self.encoder.is_frozen = True
        self.head = head.to(next(self.parameters()).device)

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """Disable LoRA while the block runs, so that features are those of the backbone before training."""
        with nullcontext() if self.encoder.is_frozen else self.encoder.backbone.disable_adapter():
            yield

    @contextmanager
    def as_frozen(self) -> Iterator[None]:
        """Treat the encoder, without its adapters, as frozen while the block runs: ``lower`` then returns features."""
        with self.without_adapters():
            was_frozen, self.encoder.is_frozen = self.encoder.is_frozen, True
            try:
                yield
            finally:
                self.encoder.is_frozen = was_frozen

    def merge(self) -> None:
        merge_adapters(self.encoder)
        self.encoder.requires_grad_(False)

    def parameter_groups(self, optim: OptimSettings) -> list[dict[str, Any]]:
        """Return the groups ``lora`` and ``head``.

        LoRA has its own rate and no decay: it decays towards the pretrained weights by itself.
        """
        lora = [p for p in self.encoder.parameters() if p.requires_grad]
        head_lr = DEFAULT_HEAD_LR if optim.head_lr is None else optim.head_lr
        return [
            {"name": "lora", "params": lora, "lr": optim.lora_lr, "weight_decay": 0.0},
            {"name": "head", "params": list(self.head.parameters()), "lr": head_lr, "weight_decay": optim.weight_decay},
        ]

    def checkpoint_gradients(self) -> None:
        checkpoint_activations(self.encoder.backbone)

    def stages(self, contract: Contract) -> tuple[ModelStage, ...]:
        if self.encoder.sees_windows:
            encoder, head = window_encoder_stages(contract, self.encoder.width)
        else:
            encoder, head = frame_encoder_stages(contract, self.encoder.width, self.encoder.group)
        return ModelStage(encoder, self.encoder), ModelStage(head, self.head)

    def save(self, folder: Path) -> None:
        """Write the head, and the adapter unless the encoder is frozen."""
        if not self.encoder.is_frozen:
            save_adapter(self.encoder.backbone, folder / ADAPTER)
        save_tensors(self.head.state_dict(), folder / HEAD)

    def load_backbone(self, folder: Path) -> None:
        if (folder / ADAPTER).is_dir():
            self.encoder.backbone = load_adapter(self.encoder.backbone, folder / ADAPTER)

    def load_head(self, folder: Path) -> None:
        load_state(self.head, folder / HEAD)
