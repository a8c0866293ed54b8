"""Augmentation on batches of clips, ``uint8 (B, T, H, W, 3)`` → the same, one draw per clip for all its moments.

It works on what the contract's reader yields, so an augmented frame is a frame that the reader could have yielded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

ZOOM = 1.25
LIGHT = 0.2


def augmented(frames: Tensor, kinds: Sequence[str], generator: torch.Generator) -> Tensor:
    """Apply the augmentations named in ``kinds``, in their order.

    Args:
        frames: ``uint8 (B, T, H, W, 3)``.
        kinds: of ``flip`` (left and right), ``updown``, ``dihedral`` (any of the 8 turns and mirrorings; needs square
            frames), ``zoom`` (a random part down to 1/1.25 of each side, or as far out) and ``light`` (brightness and
            contrast ± 20 %).
        generator: source of randomness, on the CPU.
    """
    for kind in kinds:
        frames = torch.stack([_ONE[kind](clip, generator) for clip in frames])
    return frames


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _flip(clip: Tensor, generator: torch.Generator) -> Tensor:
    return clip.flip(2) if _uniform(generator, 0, 1) < 0.5 else clip


def _updown(clip: Tensor, generator: torch.Generator) -> Tensor:
    return clip.flip(1) if _uniform(generator, 0, 1) < 0.5 else clip


def _dihedral(clip: Tensor, generator: torch.Generator) -> Tensor:
    turns = int(torch.randint(4, (), generator=generator))
    return _flip(torch.rot90(clip, turns, dims=(1, 2)), generator)


def _zoom(clip: Tensor, generator: torch.Generator) -> Tensor:
    scale = _uniform(generator, 1 / ZOOM, ZOOM)
    slack = abs(1 - scale)
    shift_x, shift_y = (_uniform(generator, -slack, slack) for _ in range(2))
    theta = torch.tensor([[scale, 0.0, shift_x], [0.0, scale, shift_y]]).expand(len(clip), 2, 3)
    pixels = clip.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(theta.to(pixels.device), list(pixels.shape), align_corners=False)
    moved = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return moved.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _light(clip: Tensor, generator: torch.Generator) -> Tensor:
    contrast, brightness = _uniform(generator, 1 - LIGHT, 1 + LIGHT), _uniform(generator, -LIGHT, LIGHT) * 128
    return ((clip.float() - 128) * contrast + 128 + brightness).round().clamp(0, 255).to(torch.uint8)


_ONE = {"flip": _flip, "updown": _updown, "dihedral": _dihedral, "zoom": _zoom, "light": _light}
