"""Encoder and head: a model of two stages, trained jointly."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrisk.models.config import OptimSettings
from vidrisk.models.encoders import Encoder
from vidrisk.models.heads import Head
from vidrisk.models.lora import load_adapter, save_adapter
from vidrisk.models.trainable import ModelStage, TrainableModel
from vidrisk.models.weights import load_tensors, save_tensors
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import BundleError
from vidrisk.runtimes.contract.stages import frame_encoder_stages, window_encoder_stages

log = logging.getLogger(__name__)

ADAPTER, HEAD = "adapter", "head.safetensors"


class ClipClassifier(TrainableModel):
    """An encoder of frames or windows, and a head.

    ``lower`` gives floats ``(B, T, …)``, or ``(B, …)`` where the encoder sees windows.
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
        hidden = self.encoder.lower(frames.flatten(0, 1))
        return hidden.reshape(*frames.shape[:2], *hidden.shape[1:])

    def features(self, inputs: Tensor) -> Tensor:
        """Frames, or the output of ``lower`` → features ``(B, T, D)``, or ``(B, D)`` where the encoder sees windows."""
        run = self.encoder if inputs.dtype == torch.uint8 else self.encoder.upper
        if self.encoder.sees_windows:
            of_windows: Tensor = run(inputs)
            return of_windows
        features: Tensor = run(inputs.flatten(0, 1))
        return features.reshape(*inputs.shape[:2], -1)

    def logits(self, features: Tensor) -> tuple[Tensor, ...]:
        logits: tuple[Tensor, ...] = self.head(features)
        return logits

    def standardise_by(self, features: Tensor) -> None:
        self.head.standardise_by(features)

    def parameter_groups(self, optim: OptimSettings) -> list[dict[str, Any]]:
        """LoRA with its own rate and no decay (it decays towards the pretrained weights by itself), then the head."""
        lora = [p for p in self.encoder.parameters() if p.requires_grad]
        return [{"params": lora, "lr": optim.lora_lr, "weight_decay": 0.0},
                {"params": list(self.head.parameters()), "lr": optim.head_lr, "weight_decay": optim.weight_decay}]

    def checkpoint_gradients(self) -> None:
        names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")  # transformers 5 has both
        enable = next((getattr(self.encoder.backbone, name) for name in names if hasattr(self.encoder.backbone, name)), None)
        if enable is None:
            log.warning("%s has no gradient checkpointing: going on without", self.encoder.family.name)
        else:
            enable()

    def stages(self, contract: Contract) -> tuple[ModelStage, ...]:
        describe = window_encoder_stages if self.encoder.sees_windows else frame_encoder_stages
        encoder, head = describe(contract, self.encoder.width)
        return ModelStage(encoder, self.encoder), ModelStage(head, self.head)

    def save(self, folder: Path) -> None:
        """Write the adapter, unless the encoder stayed frozen, and the head."""
        if not self.encoder.is_frozen:
            save_adapter(self.encoder, folder / ADAPTER)
        save_tensors(self.head.state_dict(), folder / HEAD)

    def load(self, folder: Path) -> None:
        if (folder / ADAPTER).is_dir():
            load_adapter(self.encoder, folder / ADAPTER)
        elif not self.encoder.is_frozen:
            raise BundleError(f"{folder} lacks its {ADAPTER} folder", fix="copy the run whole, or train it again")
        weights = load_tensors(folder / HEAD)
        try:
            self.head.load_state_dict(weights)
        except RuntimeError as error:
            raise BundleError(f"{folder / HEAD} does not fit the run: {str(error).splitlines()[0]}",
                              fix="copy the run whole, or train it again") from error
