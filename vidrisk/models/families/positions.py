"""Resampling of a checkpoint's learned positions for windows of another length or size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.specs import PixelSpec


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Return height and width of a configuration's size, which may be one number."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def check_grid(name: str, pixel: PixelSpec, frames: int, step: tuple[int, ...]) -> tuple[int, int, int]:
    """Return how many tokens a window has along time, height and width.

    Args:
        name: of the architecture, for messages.
        pixel: size of a frame.
        frames: of the window.
        step: frames and pixels that a token covers; the remainder at the right and at the bottom is not seen.

    Raises:
        SettingsError: frames are smaller than a token, or the window is not a whole number of tokens long.
    """
    deep, high, wide = step
    if frames % deep:
        raise SettingsError(
            f"windows of {frames} frames for a {name} whose tokens cover {deep}",
            allowed=f"multiples of {deep}",
            fix="set frames",
        )
    if pixel.height < high or pixel.width < wide:
        raise SettingsError(
            f"{name} on {pixel.height}x{pixel.width} frames",
            allowed=f"at least {high}x{wide}",
            fix="set pixel.height and pixel.width",
        )
    return frames // deep, pixel.height // high, pixel.width // wide


def resample_positions(
    positions: Tensor, grid: Sequence[int], wanted: Sequence[int], mode: str, class_tokens: int = 0
) -> Tensor:
    """Resample learned positions ``(1, N, D)`` from one grid to another.

    Args:
        positions: learned positions.
        grid: of the positions, N in all, the last dimension varies fastest.
        wanted: grid of the result.
        mode: of ``torch.nn.functional.interpolate``.
        class_tokens: number of tokens at the beginning that have no position in the grid and are kept.
    """
    if tuple(grid) == tuple(wanted):
        return positions
    placed = positions[:, class_tokens:].transpose(1, 2)
    placed = nn.functional.interpolate(placed.reshape(*placed.shape[:2], *grid), size=tuple(wanted), mode=mode)
    return torch.cat([positions[:, :class_tokens], placed.flatten(2).transpose(1, 2)], dim=1)
