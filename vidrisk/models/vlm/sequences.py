"""Conversations as tensors: several of them side by side, padded behind, with the visual tokens of their photos in their places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vidrisk.models.vlm.layout import Grid, Layout
from vidrisk.runtimes.text.turns import Parts, Photo


@dataclass(frozen=True)
class TextSequence:
    """One conversation, L tokens long.

    Attributes:
        layout: of its tokens.
        is_answer: whether a token is one that the model learns to write, ``bool (L,)``.
        photos: how many it shows.
    """

    layout: Layout
    is_answer: np.ndarray
    photos: int

    @property
    def length(self) -> int:
        return self.layout.length

    @property
    def answer_tokens(self) -> int:
        """Tokens that are learnt."""
        return int(self.is_answer.sum())


def sequence_from_parts(parts: Parts, grid: Grid) -> TextSequence:
    """Lay a conversation out.

    Args:
        grid: visual tokens of a photo.
    """
    found = tuple(grid if isinstance(part, Photo) else tuple(part.tolist()) for part in parts.parts)
    lengths = [part.tokens if isinstance(part, Grid) else len(part) for part in found]
    return TextSequence(Layout(found, 0, -1), np.repeat(parts.answers, lengths), sum(isinstance(part, Grid) for part in found))


@dataclass(frozen=True)
class SequenceBatch:
    """B conversations of at most L tokens.

    Attributes:
        ids: token ids ``int64 (B, L)``; 0 where a visual token is, and behind the end.
        is_visual, is_answer, is_token: ``bool (B, L)``; the last one is False behind the end.
        positions: as the decoder takes them, ``int64 (B, L)``, or ``(3, B, L)`` in time, height and width.
        photos: of all of them, in order: features ``(M, n, W)`` or frames ``uint8 (M, H, W, 3)``.
    """

    ids: Tensor
    is_visual: Tensor
    is_answer: Tensor
    is_token: Tensor
    positions: Tensor
    photos: Tensor

    def to(self, device: torch.device) -> SequenceBatch:
        return replace(self, **{name: tensor.to(device) for name, tensor in vars(self).items()})

    @property
    def learnt(self) -> Tensor:
        """Tokens that are learnt, of each conversation ``int64 (B,)``."""
        return self.is_answer.sum(dim=1)


def batch_from_sequences(sequences: Sequence[TextSequence], photos: Tensor,
                         positions_of: Callable[[Layout], Tensor]) -> SequenceBatch:
    """Put conversations side by side.

    Args:
        photos: of all of them, in order.
        positions_of: gives a layout's positions, ``(L,)`` or ``(3, L)``.
    """
    size, longest = len(sequences), max(sequence.length for sequence in sequences)
    ids = torch.zeros((size, longest), dtype=torch.int64)
    flags = torch.zeros((3, size, longest), dtype=torch.bool)
    placed = [positions_of(sequence.layout) for sequence in sequences]
    positions = torch.zeros((*placed[0].shape[:-1], size, longest), dtype=torch.int64)
    for row, (sequence, own) in enumerate(zip(sequences, placed, strict=True)):
        length = sequence.length
        ids[row, :length] = torch.from_numpy(np.maximum(sequence.layout.ids, 0))
        flags[0, row, :length] = torch.from_numpy(sequence.layout.is_visual)
        flags[1, row, :length] = torch.from_numpy(sequence.is_answer)
        flags[2, row, :length] = True
        positions[..., row, :length] = own
    is_visual, is_answer, is_token = flags
    return SequenceBatch(ids, is_visual, is_answer, is_token, positions, photos)
