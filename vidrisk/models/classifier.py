"""Encoder and head together: what is trained jointly, merged and exported."""

from __future__ import annotations

from torch import Tensor, nn

from vidrisk.models.encoders import FrameEncoder
from vidrisk.models.heads import Head


class ClipClassifier(nn.Module):
    """``uint8 (B, T, H, W, 3)`` → logits ``(B, C)`` per target. Photos have T = 1."""

    def __init__(self, encoder: FrameEncoder, head: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        batch, moments = frames.shape[:2]
        features = self.encoder(frames.flatten(0, 1))
        logits: tuple[Tensor, ...] = self.head(features.unflatten(0, (batch, moments)))
        return logits
