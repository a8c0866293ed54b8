"""The layout of a prompt: token ids, places of visual tokens, positions in space and time, and the classified token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import SettingsError

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """Visual tokens of ``frames`` moments of ``height`` × ``width`` tokens each, moment by moment, row by row."""

    frames: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        return self.frames * self.height * self.width


Part = Sequence[int] | Ints | Grid
"""Token ids, or visual tokens."""


@dataclass(frozen=True, eq=False)
class Layout:
    """A conversation of L tokens.

    Only the parts are stored, since a whole training set of layouts is held in memory; the rest is computed from them.

    Attributes:
        parts: token ids ``int32 (n,)`` and grids, in turns.
    """

    parts: tuple[npt.NDArray[np.int32] | Grid, ...]

    @classmethod
    def of(cls, parts: Iterable[Part]) -> Layout:
        """Concatenate parts; adjacent token ids become one part."""
        groups = (list(group) for _, group in groupby(parts, key=lambda part: isinstance(part, Grid)))
        found: list[npt.NDArray[np.int32] | Grid] = []
        for group in groups:
            grids = [part for part in group if isinstance(part, Grid)]
            found += grids or [np.concatenate([np.asarray(part, np.int32) for part in group])]
        return cls(tuple(found))

    @property
    def length(self) -> int:
        return sum(part.tokens if isinstance(part, Grid) else len(part) for part in self.parts)

    @property
    def visual(self) -> int:
        """Number of visual tokens."""
        return sum(part.tokens for part in self.parts if isinstance(part, Grid))

    @property
    def text(self) -> Ints:
        """Ids of the P text tokens, in order."""
        return np.concatenate([np.empty(0, np.int64), *(part for part in self.parts if not isinstance(part, Grid))])

    @property
    def is_visual(self) -> npt.NDArray[np.bool_]:
        """Whether each token is visual, ``(L,)``."""
        return self.ids < 0

    @property
    def leading(self) -> int:
        """Number of text tokens before the first visual one."""
        first = self.parts[0]
        return 0 if isinstance(first, Grid) else len(first)

    @property
    def order(self) -> Ints:
        """Index of each of the L tokens in the P text tokens followed by the visual ones."""
        is_visual = self.is_visual
        order = np.empty(self.length, np.int64)
        order[~is_visual] = np.arange(self.length - self.visual)
        order[is_visual] = self.length - self.visual + np.arange(self.visual)
        return order

    @property
    def ids(self) -> Ints:
        """Token ids ``(L,)``; -1 for visual tokens."""
        return np.concatenate(
            [np.full(part.tokens, -1) if isinstance(part, Grid) else part for part in self.parts], dtype=np.int64
        )

    def positions(self, interval: float = 1.0) -> Ints:
        """Return positions in time, height and width, ``(3, L)``.

        The three are equal for text, which continues after the longer side of a grid. Wang et al. 2024,
        https://arxiv.org/abs/2409.12191, section 2.1.

        Args:
            interval: between two moments of one grid; multiplied in single precision and rounded down, as in
                transformers.
        """
        found, begin = [], 0
        for part in self.parts:
            if isinstance(part, Grid):
                moments = np.arange(part.frames, dtype=np.float32) * np.float32(interval)
                axes = np.meshgrid(
                    moments.astype(np.int64), np.arange(part.height), np.arange(part.width), indexing="ij"
                )
                found.append(begin + np.stack(axes).reshape(3, -1))
                begin += max(part.height, part.width)
            else:
                found.append(np.broadcast_to(begin + np.arange(len(part)), (3, len(part))))
                begin += len(part)
        return np.concatenate(found, axis=1)


@dataclass(frozen=True, eq=False)
class PromptLayout:
    """A conversation of one question and one reply.

    Attributes:
        reply: number of tokens of the reply, at the end.
        place: index of the token whose state is classified, in the reply.
    """

    layout: Layout
    reply: int
    place: int

    def until_token(self) -> PromptLayout:
        """Drop everything after the token: a causal model's state at the token does not depend on it."""
        behind = self.layout.length - 1 - self.place
        *parts, last = self.layout.parts
        assert not isinstance(last, Grid)
        return PromptLayout(Layout((*parts, last[: len(last) - behind])), self.reply - behind, self.place)


def layout_from_parts(parts: Sequence[Part], reply: Sequence[int], token: int, *, most: int, what: str) -> PromptLayout:
    """Return the layout of a prompt and its reply.

    Args:
        parts: before the reply.
        reply: token ids of the reply.
        token: id of the token whose state is classified.
        most: greatest number of tokens.
        what: the prompt, for messages.

    Raises:
        SettingsError: the token does not occur exactly once, in the reply; or the layout is longer than ``most``.
    """
    layout = Layout.of((*parts, reply))
    places, in_reply = np.flatnonzero(layout.ids == token), list(reply).count(token)
    if len(places) != 1 or in_reply != 1:
        raise SettingsError(
            f"{what} holds the model's token {len(places)} times, {in_reply} of them in its reply",
            allowed="once, in the reply",
            fix="correct the pair in vlm.prompts",
        )
    if layout.length > most:
        raise SettingsError(
            f"{what} takes {layout.length} tokens, {layout.visual} of them visual: the model's token would be cut off",
            allowed=f"{most} tokens",
            fix="use fewer or smaller frames, or a larger vlm.max_tokens",
        )
    return PromptLayout(layout, len(reply), int(places[0]))
