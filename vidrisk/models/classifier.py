"""Encoder and head together: what is trained jointly, merged and exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidrisk.models.encoders import FrameEncoder
from vidrisk.models.heads import Head


class ClipClassifier(nn.Module):
    """``uint8 (B, T, H, W, 3)`` → logits ``(B, C)`` per target. Photos have T = 1.

    ``forward`` takes the output of ``lower`` just as well: ``(B, T, …)`` floats that the frozen part of the encoder made.
    """

    def __init__(self, encoder: FrameEncoder, head: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def lower(self, frames: Tensor) -> Tensor:
        """Frames → what the first trained layer sees, ``(B, T, …)``."""
        hidden = self.encoder.lower(frames.flatten(0, 1))
        return hidden.reshape(*frames.shape[:2], *hidden.shape[1:])

    def features(self, inputs: Tensor) -> Tensor:
        """Frames, or the output of ``lower`` → features ``(B, T, D)``."""
        run = self.encoder if inputs.dtype == torch.uint8 else self.encoder.upper
        features: Tensor = run(inputs.flatten(0, 1))
        return features.reshape(*inputs.shape[:2], -1)

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        logits: tuple[Tensor, ...] = self.head(self.features(inputs))
        return logits
