"""Batches with samples mixed in pairs, as frames or hidden features.

The methods are mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vidrisk.models.config import OptimSettings


@dataclass(frozen=True)
class Mixed:
    """Inputs of a batch, and the truth of both samples of each pair.

    Attributes:
        share: share of the first sample, 0–1; its weight in the loss.
    """

    inputs: Tensor
    truth: Tensor
    other: Tensor
    share: float


def mix_batch(inputs: Tensor, truth: Tensor, optim: OptimSettings, generator: torch.Generator) -> Mixed:
    """Mix every sample with another one of the batch, as the settings say.

    Nothing is mixed if the settings say so, or if the batch has one sample. If both methods are on, each batch takes
    one of them at random. ``inputs`` are frames ``uint8 (B, T, H, W, 3)``, or hidden features ``(B, …)``; CutMix cuts
    inputs with height and width, ``(B, T, C, h, w)``, and mixes others.
    """
    kinds = [kind for kind, alpha in (("mixup", optim.mixup), ("cutmix", optim.cutmix)) if alpha > 0]
    if not kinds or len(inputs) < 2:
        return Mixed(inputs, truth, truth, 1.0)
    kind = kinds[int(torch.randint(len(kinds), (), generator=generator))]
    alpha = optim.mixup if kind == "mixup" else optim.cutmix
    share = _beta(alpha, generator)
    order = torch.arange(len(inputs)).roll(
        int(torch.randint(1, len(inputs), (), generator=generator))
    )  # no sample with itself
    other = inputs[order.to(inputs.device)]
    if kind == "cutmix" and inputs.ndim == 5:
        high, wide = (2, 3) if inputs.dtype == torch.uint8 else (3, 4)
        height, width = inputs.shape[high], inputs.shape[wide]
        side = math.sqrt(1 - share)
        tall, across = round(height * side), round(width * side)
        top, left = (int(torch.randint(room + 1, (), generator=generator)) for room in (height - tall, width - across))
        mixed = inputs.clone()
        piece = [slice(None)] * 5
        piece[high], piece[wide] = slice(top, top + tall), slice(left, left + across)
        mixed[tuple(piece)] = other[tuple(piece)]
        share = 1 - tall * across / (height * width)
    elif inputs.dtype == torch.uint8:
        mixed = (inputs.float() * share + other.float() * (1 - share)).round().to(torch.uint8)
    else:
        mixed = inputs * share + other * (1 - share)
    return Mixed(mixed, truth, truth[order.to(truth.device)], share)


def _beta(alpha: float, generator: torch.Generator) -> float:
    """Draw from Beta(alpha, alpha), because torch's own draws take no generator."""
    first, second = (_gamma(alpha, generator) for _ in range(2))
    return first / (first + second) if first + second > 0 else 0.5


def _gamma(alpha: float, generator: torch.Generator) -> float:
    """Draw from Gamma(alpha, 1) (Marsaglia & Tsang 2000)."""
    boost = float(torch.rand((), generator=generator)) ** (1 / alpha) if alpha < 1 else 1.0
    d = (alpha + 1 if alpha < 1 else alpha) - 1 / 3
    c = 1 / math.sqrt(9 * d)
    while True:
        normal = float(torch.randn((), generator=generator))
        value = (1 + c * normal) ** 3
        uniform = float(torch.rand((), generator=generator))
        if value > 0 and math.log(max(uniform, 1e-300)) < 0.5 * normal**2 + d - d * value + d * math.log(value):
            return d * value * boost
