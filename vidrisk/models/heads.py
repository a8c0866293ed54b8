"""Heads: features ``(B, T, D)``, or ``(B, D)`` of whole windows → one logits tensor ``(B, C)`` per target.

The tensors are in the contract's order. Features are first standardised with the mean and deviation of the training
features (buffers, part of the exported graph), so that a head trains similarly on every backbone. Classifiers start at
zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from vidrisk.models.blocks import Block
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.errors import SettingsError

HeadKind = Literal["linear", "mlp", "segments", "motion", "attention", "transformer"]
SEGMENTS = 8
KEY_WIDTH = 64
QUIET = 0.1  # share of the average deviation added to every feature's own, so that dead features stay small


class Head(nn.Module):
    """A trunk over the moments and one linear classifier per target.

    Args:
        kind: ``linear`` averages over time; ``mlp`` adds a hidden layer after the average; ``segments`` keeps the order
            of up to 8 parts of the clip and the changes in them; ``motion`` does the same without what stays constant
            throughout the clip; ``attention`` learns which moments its parts average; ``transformer`` lets moments
            attend to one another, represented by their difference from the whole clip.
        width: D, size of a feature.
        frames: T, moments per clip; None if a feature covers a whole window, in which case only ``linear`` and ``mlp``
            are possible.
        targets: of the contract; one output each.
        hidden: width of the hidden layer of ``mlp``, and of a moment in ``transformer``.
        dropout: before the classifiers.
        layers: blocks of ``transformer``.
        heads: attention heads of ``transformer``.

    Raises:
        SettingsError: a kind that needs features per frame, if there are none; attention heads that do not divide the
            width.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        kind: HeadKind,
        *,
        width: int,
        frames: int | None,
        targets: Sequence[Target],
        hidden: int,
        dropout: float,
        layers: int = 2,
        heads: int = 8,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.trunk: nn.Module
        average = nn.Identity() if frames is None else AverageOverTime()
        if kind == "linear":
            self.trunk, out = average, width
        elif kind == "mlp":
            self.trunk, out = nn.Sequential(average, nn.Linear(width, hidden), nn.GELU()), hidden
        elif frames is None:
            raise SettingsError(
                f"head {kind!r} behind an encoder that sees whole windows",
                allowed="auto, linear, mlp",
                fix="set head.kind, or choose a backbone that sees one frame at a time",
            )
        elif kind == "transformer":
            self.trunk, out = AttentionBetweenMoments(width, frames, hidden, layers, heads, dropout), hidden
        elif kind in ("segments", "motion"):
            parts = min(SEGMENTS, frames)
            self.trunk, out = SegmentsOfTime(frames, parts, is_relative=kind == "motion"), 2 * parts * width
        else:
            parts = min(SEGMENTS, frames)
            self.trunk, out = AttentionOverTime(width, frames, parts), 2 * parts * width
        self.dropout = nn.Dropout(dropout)
        self.classifiers = nn.ModuleList(nn.Linear(out, len(target.labels)) for target in targets)
        for parameter in self.classifiers.parameters():
            nn.init.zeros_(parameter)

    def standardise_by(self, batches: Iterable[Tensor]) -> None:
        """Set mean and deviation from batches of training features ``(N, D)``."""
        copy_statistics(batches, self.mean, self.deviation)

    @property
    def is_linear(self) -> bool:
        """Whether only the classifiers are trained."""
        return not any(True for _ in self.trunk.parameters())

    def summary(self, features: Tensor) -> Tensor:
        """Return the input of the classifiers ``(B, S)``."""
        summary: Tensor = self.trunk((features - self.mean) / self.deviation)
        return summary

    def start_classifiers(self, weights: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Initialise the classifiers with weights ``(C, S)`` and biases ``(C,)``, per target."""
        with torch.no_grad():
            for classifier, (weight, bias) in zip(self.classifiers, weights, strict=True):
                assert isinstance(classifier, nn.Linear)
                classifier.weight.copy_(weight)
                classifier.bias.copy_(bias)

    def adjust_classifiers(self, changes: Sequence[tuple[float, Tensor]]) -> None:
        """Scale the logits of each target by a number, and add ``(C,)`` to them."""
        self.start_classifiers(
            [
                (each.weight * scale, each.bias * scale + more.to(each.bias))
                for each, (scale, more) in zip(self.classifiers, changes, strict=True)
                if isinstance(each, nn.Linear)
            ]
        )

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        summary = self.dropout(self.summary(features))
        return tuple(classifier(summary) for classifier in self.classifiers)


def copy_statistics(batches: Iterable[Tensor], mean: Tensor, deviation: Tensor) -> None:
    """Write mean and deviation of features into two buffers ``(D,)``, as returned by ``statistics_of``."""
    for buffer, found in zip((mean, deviation), statistics_of(batches), strict=True):
        buffer.copy_(found)


def statistics_of(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and deviation ``(D,)`` of batches of features ``(N, D)``.

    The deviation is raised so that nearly constant features stay small (``QUIET``).
    """
    # squares: sums of squared differences from the mean (Chan et al. 1979)
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        features = batch.double()
        away = features.mean(dim=0) - mean
        share = len(features) / (count + len(features))
        squares = squares + features.var(dim=0, unbiased=False) * len(features) + away.square() * count * share
        mean = mean + away * share
        count += len(features)
    found = (squares / count).sqrt()
    return mean.float(), (found + QUIET * found.mean()).clamp_min(1e-6).float()


class AverageOverTime(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.mean(dim=1)


class SegmentsOfTime(nn.Module):
    """Mean appearance and mean change in each part of the clip, side by side: order and motion, without parameters.

    ``(B, T, D)`` → ``(B, parts · 2D)``. The parts are a fixed averaging matrix, so that any T works.

    Args:
        frames: T, moments per clip.
        parts: number of parts.
        is_relative: whether appearance is the difference of a part from the whole clip. Content that stays constant,
            such as a scene that a still camera shows, is then hidden from the classifiers, and cannot be mistaken for
            an action.
    """

    average: Tensor

    def __init__(self, frames: int, parts: int, *, is_relative: bool = False) -> None:
        super().__init__()
        self.is_relative = is_relative
        matrix = torch.zeros(parts, frames)
        for part in range(parts):
            begin, end = part * frames // parts, -(-(part + 1) * frames // parts)
            matrix[part, begin:end] = 1 / (end - begin)
        self.register_buffer("average", matrix, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        shown = features - features.mean(dim=1, keepdim=True) if self.is_relative else features
        return torch.matmul(self.average, _with_change(shown)).flatten(1)


class AttentionBetweenMoments(nn.Module):
    """A small transformer over moments, each given by its difference from the whole clip and from the moment before.

    ``(B, T, D)`` → ``(B, hidden)``, the mean over the moments of the last block.

    Raises:
        SettingsError: attention heads that do not divide ``hidden``.
    """

    def __init__(self, width: int, frames: int, hidden: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        if hidden % heads:
            raise SettingsError(
                f"head.heads {heads} of a transformer of width {hidden}",
                allowed=f"divisors of {hidden}",
                fix="set head.heads or head.hidden",
            )
        self.enter = nn.Linear(2 * width, hidden)
        self.place = nn.Parameter(torch.zeros(frames, hidden))
        nn.init.normal_(self.place, std=0.02)
        self.blocks = nn.Sequential(*(Block(hidden, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, features: Tensor) -> Tensor:
        change = features[:, 1:] - features[:, :-1] if features.shape[1] > 1 else features[:, :0]
        change = torch.cat([torch.zeros_like(features[:, :1]), change], dim=1)
        moments = torch.cat([features - features.mean(dim=1, keepdim=True), change], dim=2)
        seen: Tensor = self.norm(self.blocks(self.enter(moments) + self.place))
        return seen.mean(dim=1)


class AttentionOverTime(nn.Module):
    """Variant of ``SegmentsOfTime`` in which every part learns which moments it averages, by time and by content.

    Part s starts as a Gaussian over the moments of the s-th segment; its content query starts at zero.
    """

    def __init__(self, width: int, frames: int, parts: int) -> None:
        super().__init__()
        moments, centres = torch.arange(frames), (torch.arange(parts) + 0.5) * frames / parts - 0.5
        self.place = nn.Parameter(-0.5 * ((moments - centres[:, None]) / (0.5 * frames / parts)) ** 2)
        self.key = nn.Linear(width, KEY_WIDTH, bias=False)
        self.query = nn.Parameter(torch.zeros(parts, KEY_WIDTH))

    def forward(self, features: Tensor) -> Tensor:
        keys = torch.tanh(self.key(features)).transpose(1, 2)
        weights = torch.softmax(self.place + torch.matmul(self.query, keys), dim=-1)
        return torch.matmul(weights, _with_change(features)).flatten(1)


def _with_change(features: Tensor) -> Tensor:
    """Append to each moment its absolute change from the moment before: ``(B, T, D)`` → ``(B, T, 2D)``.

    The first moment repeats the change of the second.
    """
    if features.shape[1] == 1:
        return torch.cat([features, torch.zeros_like(features)], dim=2)
    change = (features[:, 1:] - features[:, :-1]).abs()
    return torch.cat([features, torch.cat([change[:, :1], change], dim=1)], dim=2)
