"""One prompt as token ids, with the places of visual tokens, positions in space and time, and the token that is classified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

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


Part = tuple[int, ...] | Grid


@dataclass(frozen=True)
class Layout:
    """A conversation of one question and one reply, L tokens long.

    Attributes:
        parts: token ids and grids in their order.
        reply: tokens of the reply, at the end.
        token: id of the token whose state is classified.
    """

    parts: tuple[Part, ...]
    reply: int
    token: int

    @property
    def length(self) -> int:
        return len(self.is_visual)

    @cached_property
    def text(self) -> Ints:
        """Ids of the P tokens that are text, in order."""
        return np.array([each for part in self.parts if not isinstance(part, Grid) for each in part], np.int64)

    @cached_property
    def is_visual(self) -> npt.NDArray[np.bool_]:
        """Whether a visual token is at a place, ``(L,)``."""
        return np.concatenate([np.full(part.tokens if isinstance(part, Grid) else len(part), isinstance(part, Grid))
                               for part in self.parts])

    @property
    def leading(self) -> int:
        """Tokens of text in front of the first visual one."""
        first = self.parts[0]
        return 0 if isinstance(first, Grid) else len(first)

    @cached_property
    def order(self) -> Ints:
        """Where each of the L tokens stands in the P of text followed by the visual ones."""
        order = np.empty(self.length, np.int64)
        order[~self.is_visual] = np.arange(len(self.text))
        order[self.is_visual] = len(self.text) + np.arange(self.length - len(self.text))
        return order

    @cached_property
    def ids(self) -> Ints:
        """Token ids ``(L,)``; -1 where a visual token is."""
        ids = np.full(self.length, -1, np.int64)
        ids[~self.is_visual] = self.text
        return ids

    @property
    def place(self) -> int:
        """Of the token that is classified."""
        return int(np.flatnonzero(self.ids == self.token)[-1])

    def until_token(self) -> Layout:
        """Leave out what follows the token: a causal model's state there does not depend on it."""
        behind = self.length - 1 - self.place
        last = self.parts[-1]
        assert not isinstance(last, Grid)
        return Layout((*self.parts[:-1], last[:len(last) - behind]), self.reply - behind, self.token)

    def positions(self, interval: float = 1.0) -> Ints:
        """Positions in time, height and width, ``(3, L)``: equal ones for text, which goes on behind the longer side of a grid.

        Args:
            interval: between two moments of one grid; multiplied in single precision and rounded down, as transformers does.

        Wang et al. 2024, https://arxiv.org/abs/2409.12191, section 2.1.
        """
        found, begin = [], 0
        for part in self.parts:
            if isinstance(part, Grid):
                moments = np.arange(part.frames, dtype=np.float32) * np.float32(interval)
                axes = np.meshgrid(moments.astype(np.int64), np.arange(part.height), np.arange(part.width), indexing="ij")
                found.append(begin + np.stack(axes).reshape(3, -1))
                begin += max(part.height, part.width)
            else:
                found.append(np.broadcast_to(begin + np.arange(len(part)), (3, len(part))))
                begin += len(part)
        return np.concatenate(found, axis=1)


def layout_from_parts(parts: Sequence[Part], reply: Sequence[int], token: int, *, most: int, what: str) -> Layout:
    """Return the layout of a prompt and its reply.

    Args:
        parts: in front of the reply.
        most: tokens.
        what: the prompt, for messages.

    Raises:
        SettingsError: the token is not in it exactly once, in the reply; or it is longer than ``most``.
    """
    merged: list[Part] = []
    for part in (*parts, tuple(reply)):
        before = merged[-1] if merged else None
        if isinstance(part, tuple) and isinstance(before, tuple):
            merged[-1] = before + part
        else:
            merged.append(part)
    layout = Layout(tuple(merged), len(reply), token)
    found, in_reply = int((layout.text == token).sum()), list(reply).count(token)
    if found != 1 or in_reply != 1:
        raise SettingsError(f"{what} holds the model's token {found} times, {in_reply} of them in its reply",
                            allowed="once, in the reply", fix="correct the pair in vlm.prompts")
    if layout.length > most:
        visual = int(layout.is_visual.sum())
        raise SettingsError(f"{what} takes {layout.length} tokens, {visual} of them visual: the model's token would be cut off",
                            allowed=f"{most} tokens", fix="use fewer or smaller frames, or a larger vlm.max_tokens")
    return layout
