"""Conversations as tensors: several of them side by side, padded behind, with the visual tokens of their photos in their places."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vidrisk.models.vlm.layout import Grid, Layout
from vidrisk.runtimes.text.turns import Parts, Photo

READ, WRITTEN, CHOSEN = range(3)
"""What a model has to do with a token: read it, learn to write it, or learn to choose by it between levels or the like."""


@dataclass(frozen=True)
class TextSequence:
    """One conversation, L tokens long.

    Attributes:
        layout: of its tokens.
        roles: of its tokens, ``uint8 (L,)``: ``READ``, ``WRITTEN`` or ``CHOSEN``.
        photos: how many it shows.
    """

    layout: Layout
    roles: np.ndarray
    photos: int

    @property
    def length(self) -> int:
        return self.layout.length

    @property
    def answer_tokens(self) -> int:
        """Tokens that are learnt."""
        return int(np.count_nonzero(self.roles))

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest of its answers, with the one that ends it."""
        ends = np.flatnonzero(np.diff(self.roles != READ, prepend=False, append=False))  # begin, end, begin, end, …
        return int((ends[1::2] - ends[::2]).max(initial=0))

    @property
    def choices(self) -> int:
        """Tokens that choose."""
        return int(np.count_nonzero(self.roles == CHOSEN))


def sequence_from_parts(parts: Parts, grid: Grid, choices: Sequence[Iterable[int]] = ()) -> TextSequence:
    """Lay a conversation out.

    Args:
        grid: visual tokens of a photo.
        choices: places, in each of its answers, of the tokens that choose; none where it is left out.
    """
    found = [grid if isinstance(part, Photo) else part for part in parts.parts]
    lengths = [part.tokens if isinstance(part, Grid) else len(part) for part in found]
    roles = np.repeat(np.where(parts.answers, WRITTEN, READ).astype(np.uint8), lengths)
    begins = np.cumsum([0, *lengths])[:-1][list(parts.answers)]
    for begin, places in zip(begins, choices, strict=False):
        roles[[begin + place for place in places]] = CHOSEN
    return TextSequence(Layout.of(found), roles, sum(isinstance(part, Grid) for part in found))


@dataclass(frozen=True)
class SequenceBatch:
    """B conversations of at most L tokens.

    Attributes:
        ids: token ids ``int64 (B, L)``; 0 where a visual token is, and behind the end.
        is_visual, is_token: ``bool (B, L)``; the second is False behind the end.
        roles: ``uint8 (B, L)``: ``READ``, ``WRITTEN`` or ``CHOSEN``.
        positions: as the decoder takes them, ``int64 (B, L)``, or ``(3, B, L)`` in time, height and width.
        photos: of all of them, in order: features ``(M, n, W)`` or frames ``uint8 (M, H, W, 3)``.
    """

    ids: Tensor
    is_visual: Tensor
    is_token: Tensor
    roles: Tensor
    positions: Tensor
    photos: Tensor

    def to(self, device: torch.device) -> SequenceBatch:
        return replace(self, **{name: tensor.to(device) for name, tensor in vars(self).items()})

    @property
    def is_answer(self) -> Tensor:
        """Whether a token is learnt, ``bool (B, L)``: K tokens are."""
        return self.roles != READ

    @property
    def is_choice(self) -> Tensor:
        """Whether a token that is learnt chooses, ``bool (K,)``."""
        return self.roles[self.is_answer] == CHOSEN

    def sums(self, values: Tensor) -> Tensor:
        """Add values of the tokens that are learnt ``(K,)`` up to those of their conversations ``(B,)``."""
        return values.new_zeros(len(self.ids)).index_add(0, self.is_answer.nonzero()[:, 0], values)


def batch_from_sequences(
    sequences: Sequence[TextSequence], photos: Tensor, positions_of: Callable[[Layout], Tensor]
) -> SequenceBatch:
    """Put conversations side by side.

    Args:
        photos: of all of them, in order.
        positions_of: gives a layout's positions, ``(L,)`` or ``(3, L)``.
    """
    size, longest = len(sequences), max(sequence.length for sequence in sequences)
    ids = torch.zeros((size, longest), dtype=torch.int64)
    flags = torch.zeros((2, size, longest), dtype=torch.bool)
    roles = torch.zeros((size, longest), dtype=torch.uint8)
    placed = [positions_of(sequence.layout) for sequence in sequences]
    positions = torch.zeros((*placed[0].shape[:-1], size, longest), dtype=torch.int64)
    for row, (sequence, own) in enumerate(zip(sequences, placed, strict=True)):
        length = sequence.length
        shown = torch.from_numpy(sequence.layout.ids)
        ids[row, :length] = shown.clamp_min(0)
        flags[0, row, :length] = shown < 0
        flags[1, row, :length] = True
        roles[row, :length] = torch.from_numpy(sequence.roles)
        positions[..., row, :length] = own
    is_visual, is_token = flags
    return SequenceBatch(ids, is_visual, is_token, roles, positions, photos)
