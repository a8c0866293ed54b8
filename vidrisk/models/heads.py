"""Heads: features ``(B, T, D)`` → one logits tensor ``(B, C)`` per target, in the contract's order.

Features are first standardised with the mean and deviation of the training features (buffers, part of the exported graph),
so that a head trains alike on every backbone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from vidrisk.runtimes.contract import Target

HeadKind = Literal["linear", "mlp", "segments", "attention"]
SEGMENTS = 8


class Head(nn.Module):
    """A trunk over the moments and one linear classifier per target.

    Args:
        kind: ``linear`` averages over time; ``mlp`` puts a hidden layer behind that; ``segments`` keeps the order of up to 8
            parts of the clip and the changes in them; ``attention`` attends over moments and their changes.
        width: D, size of a feature.
        frames: T, moments per clip.
        targets: what is asked; one output each.
        hidden: width of the hidden layer of ``mlp`` and ``attention``.
        dropout: in front of the classifiers, and inside the trunk.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, kind: HeadKind, *, width: int, frames: int, targets: Sequence[Target], hidden: int,
                 dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.trunk: nn.Module
        if kind == "linear":
            self.trunk, out = AverageOverTime(), width
        elif kind == "mlp":
            self.trunk, out = nn.Sequential(AverageOverTime(), nn.Linear(width, hidden), nn.GELU()), hidden
        elif kind == "segments":
            parts = min(SEGMENTS, frames)
            self.trunk, out = SegmentsOfTime(frames, parts), (2 * parts if frames > 1 else 1) * width
        else:
            self.trunk, out = TemporalAttention(width, frames, hidden, dropout), hidden
        self.dropout = nn.Dropout(dropout)
        self.classifiers = nn.ModuleList(nn.Linear(out, len(target.labels)) for target in targets)

    def standardise_by(self, features: Tensor) -> None:
        """Take mean and deviation from training features ``(N, D)``."""
        self.mean.copy_(features.mean(dim=0))
        self.deviation.copy_(features.std(dim=0, unbiased=False).clamp_min(1e-3))

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        summary = self.dropout(self.trunk((features - self.mean) / self.deviation))
        return tuple(classifier(summary) for classifier in self.classifiers)


class AverageOverTime(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.mean(dim=1)


class SegmentsOfTime(nn.Module):
    """Mean feature and mean absolute change per part of the clip, side by side: order and motion, and nothing to train.

    (B, T, D) → (B, 2 · parts · D), the means of all parts first. A clip of one moment has no change: (B, D).
    The parts are a fixed averaging matrix, so any T works and the graph is two matrix products.
    """

    average: Tensor
    average_change: Tensor

    def __init__(self, frames: int, parts: int) -> None:
        super().__init__()
        self.register_buffer("average", _averaging(frames, parts), persistent=False)
        self.register_buffer("average_change", _averaging(max(frames - 1, 1), parts), persistent=False)
        self.still = frames == 1

    def forward(self, features: Tensor) -> Tensor:
        means = torch.matmul(self.average, features).flatten(1)
        if self.still:
            return means
        change = (features[:, 1:] - features[:, :-1]).abs()
        return torch.cat([means, torch.matmul(self.average_change, change).flatten(1)], dim=1)


def _averaging(moments: int, parts: int) -> Tensor:
    """A ``(parts, moments)`` matrix whose row i averages the i-th part; neighbouring parts share a moment where T is short."""
    matrix = torch.zeros(parts, moments)
    for part in range(parts):
        begin, end = part * moments // parts, -(-(part + 1) * moments // parts)
        matrix[part, begin:end] = 1 / (end - begin)
    return matrix


class TemporalAttention(nn.Module):
    """Self-attention over T moments and their changes, then attention pooling by one learned query.

        features (B,T,D) ── project ──┐
        x[t] - x[t-1]    ── project ──┴─ + position ── transformer block ── query attends ──> (B, hidden)
    """

    def __init__(self, width: int, frames: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.appearance = nn.Linear(width, hidden)
        self.motion = nn.Linear(width, hidden, bias=False)
        self.position = nn.Parameter(torch.zeros(1, frames, hidden))
        self.block = nn.TransformerEncoderLayer(hidden, 4, 2 * hidden, dropout, activation="gelu", batch_first=True,
                                                norm_first=True)
        self.norm = nn.LayerNorm(hidden)
        self.score = nn.Linear(hidden, 1)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, features: Tensor) -> Tensor:
        change = torch.cat([torch.zeros_like(features[:, :1]), features[:, 1:] - features[:, :-1]], dim=1)
        x = self.norm(self.block(self.appearance(features) + self.motion(change) + self.position))
        weights = torch.softmax(self.score(x), dim=1)
        summary: Tensor = (x * weights).sum(dim=1)
        return summary
