"""Encoder and head together: what is trained jointly, merged and exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidrisk.models.encoders import Encoder
from vidrisk.models.heads import Head
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.stages import Stage, frame_encoder_stages, window_encoder_stages


class ClipClassifier(nn.Module):
    """``uint8 (B, T, H, W, 3)`` → logits ``(B, C)`` per target. Photos have T = 1.

    ``forward`` takes the output of ``lower`` just as well: floats ``(B, T, …)``, or ``(B, …)`` where the encoder sees windows, that
    the frozen part of the encoder made.
    """

    def __init__(self, encoder: Encoder, head: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def lower(self, frames: Tensor) -> Tensor:
        """Frames → what the first trained layer sees."""
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

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        logits: tuple[Tensor, ...] = self.head(self.features(inputs))
        return logits

    def stages(self, contract: Contract) -> dict[str, tuple[Stage, nn.Module]]:
        """The stages of the model, in order, with the module that computes each, by name."""
        describe = window_encoder_stages if self.encoder.sees_windows else frame_encoder_stages
        encoder, head = describe(contract, self.encoder.width)
        return {encoder.name: (encoder, self.encoder), head.name: (head, self.head)}
