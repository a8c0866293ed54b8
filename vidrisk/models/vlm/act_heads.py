"""Heads of a vision-language classifier: the state at its token, with or without the visual tokens, → logits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from vidrisk.models.blocks import Block
from vidrisk.models.config import HeadSettings
from vidrisk.models.heads import Head
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.errors import SettingsError


class ActHead(nn.Module):
    """``(B, 1, D)``, or with visual tokens ``(B, 1 + N, D)``, → one logits tensor ``(B, C)`` per target.

    ``linear`` and ``mlp`` are the heads of encoders. A transformer puts the state before the visual tokens and reads
    the first position of its last block; without visual tokens it is a control, a sequence of length one.

    Args:
        settings: kind and size of the head.
        width: D, of states and visual tokens.
        targets: of the contract; one output each.

    Attributes:
        sees_visual: whether it takes visual tokens.

    Raises:
        SettingsError: a kind that needs features per frame, or attention heads that do not divide the width.
    """

    def __init__(self, settings: HeadSettings, *, width: int, targets: Sequence[Target]) -> None:
        super().__init__()
        kind = "linear" if settings.kind == "auto" else settings.kind
        self.sees_visual = kind == "transformer"
        self.blocks: nn.Module | None = None
        if kind in ("segments", "motion", "attention"):
            raise SettingsError(
                f"head {kind!r} behind a vision-language model",
                allowed="auto, linear, mlp, transformer, transformer_no_vision",
                fix="set head.kind",
            )
        if kind.startswith("transformer"):
            if width % settings.heads:
                raise SettingsError(
                    f"head.heads {settings.heads} behind states of {width}", allowed=f"divisors of {width}"
                )
            self.blocks = nn.Sequential(
                *(Block(width, settings.heads, settings.dropout) for _ in range(settings.layers))
            )
            self.before, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = Head(
            "linear" if kind == "linear" else "mlp",
            width=width,
            frames=None,
            targets=targets,
            hidden=settings.hidden,
            dropout=settings.dropout,
        )

    @property
    def is_standardised(self) -> bool:
        """Whether it uses mean and deviation of training states; a transformer normalises by itself."""
        return self.blocks is None

    def standardise_by(self, batches: Iterable[Tensor]) -> None:
        """Set mean and deviation from batches of training states ``(N, D)``."""
        self.head.standardise_by(batches)

    def adjust_classifiers(self, changes: Sequence[tuple[float, Tensor]]) -> None:
        """Scale the logits of each target by a number, and add ``(C,)`` to them."""
        self.head.adjust_classifiers(changes)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        if self.blocks is not None:
            features = self.norm(self.blocks(self.before(features)))
        logits: tuple[Tensor, ...] = self.head(features[:, 0])
        return logits
