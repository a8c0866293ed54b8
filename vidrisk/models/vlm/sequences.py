"""Batches of conversations as tensors, padded at the end, with the visual tokens of their photos in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vidrisk.models.vlm.layout import Grid, Layout
from vidrisk.runtimes.text.turns import Parts, Photo

READ, WRITTEN, CHOSEN = range(3)
"""Role of a token: it is read, trained to be written, or trained as a choice, such as between levels."""


@dataclass(frozen=True)
class TextSequence:
    """One conversation of L tokens.

    Attributes:
        layout: of its tokens.
        roles: of its tokens, ``uint8 (L,)``: ``READ``, ``WRITTEN`` or ``CHOSEN``.
        photos: number of photos in it.
    """

    layout: Layout
    roles: np.ndarray
    photos: int

    @property
    def length(self) -> int:
        return self.layout.length

    @property
    def answer_tokens(self) -> int:
        """Number of trained tokens."""
        return int(np.count_nonzero(self.roles))

    @property
    def longest_answer(self) -> int:
        """Tokens of its longest answer, including the one that ends it."""
        ends = np.flatnonzero(np.diff(self.roles != READ, prepend=False, append=False))  # begin, end, begin, end, …
        return int((ends[1::2] - ends[::2]).max(initial=0))

    @property
    def choices(self) -> int:
        """Number of tokens that express a choice."""
        return int(np.count_nonzero(self.roles == CHOSEN))


def sequence_from_parts(parts: Parts, grid: Grid, choices: Sequence[Iterable[int]] = ()) -> TextSequence:
    """Lay out a conversation.

    Args:
        parts: of the conversation.
        grid: visual tokens of a photo.
        choices: indices, in each of its answers, of the tokens that express a choice; empty if left out.
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
        ids: token ids ``int64 (B, L)``; 0 for visual tokens and padding.
        is_visual, is_token: ``bool (B, L)``; the second is False for padding.
        roles: ``uint8 (B, L)``: ``READ``, ``WRITTEN`` or ``CHOSEN``.
        positions: as the decoder expects them, ``int64 (B, L)``, or ``(3, B, L)`` in time, height and width.
        photos: of all conversations, in order: features ``(M, n, W)`` or frames ``uint8 (M, H, W, 3)``.
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
        """Whether each token is trained, ``bool (B, L)``; K tokens are."""
        return self.roles != READ

    @property
    def is_choice(self) -> Tensor:
        """Whether each trained token expresses a choice, ``bool (K,)``."""
        return self.roles[self.is_answer] == CHOSEN

    def sums(self, values: Tensor) -> Tensor:
        """Sum values of the trained tokens ``(K,)`` over their conversations ``(B,)``."""
        return values.new_zeros(len(self.ids)).index_add(0, self.is_answer.nonzero()[:, 0], values)


def batch_from_sequences(
    sequences: Sequence[TextSequence], photos: Tensor, positions_of: Callable[[Layout], Tensor]
) -> SequenceBatch:
    """Combine conversations into a batch.

    Args:
        sequences: the conversations.
        photos: of all conversations, in order.
        positions_of: layout → its positions, ``(L,)`` or ``(3, L)``.
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
