"""Augmentation of batches of clips, ``uint8 (B, T, H, W, 3)``, with one draw per clip for all its frames.

It works on the output of the contract's reader, so an augmented frame is a frame that the reader could have returned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

ZOOM = 1.25
LIGHT = 0.2
CROP_AREA, CROP_ASPECT = 0.35, 4 / 3  # minimum area of a crop, and maximum change of its aspect ratio
STILL = 0.5  # maximum opacity of a still frame that is blended over a clip
SPEED = 1.5
ERASED = 0.25  # maximum share of the area that is erased
GREY = 0.15  # share of the clips that are turned grey
RANDOM_KINDS = 2  # changes of RandAugment per clip

_Draw = Callable[[Tensor, torch.Generator], Tensor]


def augment_frames(frames: Tensor, kinds: Sequence[str], generator: torch.Generator) -> Tensor:
    """Apply augmentations; ``augment_clips`` also returns which clips were mirrored."""
    return augment_clips(frames, kinds, generator)[0]


def augment_clips(frames: Tensor, kinds: Sequence[str], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Apply the augmentations named in ``kinds``, in their order.

    Args:
        frames: ``uint8 (B, T, H, W, 3)``.
        kinds: any of ``flip`` (left-right), ``updown``, ``dihedral`` (any of the 8 rotations and reflections; needs
            square frames); ``zoom`` (a random part down to 1/1.25 of each side, or as far out), ``crop`` (a random part
            of 35 to 100 % of the area with an aspect ratio changed by up to 3:4, as ImageNet models are trained);
            ``light`` (brightness and contrast ± 20 %), ``colour`` (channels ± 20 %, saturation, sometimes grey);
            ``still`` (a frame of the same or of another clip blended over all frames with up to half opacity: Wang et
            al. 2021, Removing the Background by Adding the Background); ``erase`` (a rectangle of noise at one place),
            ``rand`` (two of eight mild changes, RandAugment: Cubuk et al. 2020); ``speed`` (a part of the clip, at
            least two thirds of it, stretched to the length of the clip).
        generator: source of randomness, on the CPU.

    Returns:
        The frames, and which clips are mirrored left to right ``bool (B,)``; for these, labels that say left or right
        must be swapped.
    """
    mirrored = torch.zeros(len(frames), dtype=torch.bool)
    for kind in kinds:
        if kind == "still":
            frames = _still(frames, generator)
        elif kind in ("flip", "dihedral"):
            drawn = [_ONE_MIRRORED[kind](clip, generator) for clip in frames]
            frames = torch.stack([clip for clip, _ in drawn])
            mirrored ^= torch.tensor([is_mirrored for _, is_mirrored in drawn])
        else:
            frames = torch.stack([_ONE[kind](clip, generator) for clip in frames])
    return frames, mirrored


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _flip(clip: Tensor, generator: torch.Generator) -> tuple[Tensor, bool]:
    is_mirrored = _uniform(generator, 0, 1) < 0.5
    return (clip.flip(2) if is_mirrored else clip), is_mirrored


def _dihedral(clip: Tensor, generator: torch.Generator) -> tuple[Tensor, bool]:
    turns = int(torch.randint(4, (), generator=generator))
    return _flip(torch.rot90(clip, turns, dims=(1, 2)), generator)


def _updown(clip: Tensor, generator: torch.Generator) -> Tensor:
    return clip.flip(1) if _uniform(generator, 0, 1) < 0.5 else clip


def _warp(clip: Tensor, matrix: Sequence[Sequence[float]]) -> Tensor:
    """Sample every frame at the places given by a ``2 x 3`` matrix; beyond the edge the frame is reflected."""
    theta = torch.tensor(matrix, dtype=torch.float32).expand(len(clip), 2, 3)
    pixels = clip.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(theta.to(pixels.device), list(pixels.shape), align_corners=False)
    moved = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return _as_bytes(moved.permute(0, 2, 3, 1))


def _as_bytes(pixels: Tensor) -> Tensor:
    return pixels.round().clamp(0, 255).to(torch.uint8)


def _zoom(clip: Tensor, generator: torch.Generator) -> Tensor:
    scale = _uniform(generator, 1 / ZOOM, ZOOM)
    slack = abs(1 - scale)
    shift_x, shift_y = (_uniform(generator, -slack, slack) for _ in range(2))
    return _warp(clip, [[scale, 0.0, shift_x], [0.0, scale, shift_y]])


def _crop(clip: Tensor, generator: torch.Generator) -> Tensor:
    area, aspect = (
        _uniform(generator, CROP_AREA, 1),
        math.exp(_uniform(generator, -math.log(CROP_ASPECT), math.log(CROP_ASPECT))),
    )
    width, height = min(1.0, math.sqrt(area * aspect)), min(1.0, math.sqrt(area / aspect))
    shift_x, shift_y = _uniform(generator, width - 1, 1 - width), _uniform(generator, height - 1, 1 - height)
    return _warp(clip, [[width, 0.0, shift_x], [0.0, height, shift_y]])


def _light(clip: Tensor, generator: torch.Generator) -> Tensor:
    contrast, brightness = _uniform(generator, 1 - LIGHT, 1 + LIGHT), _uniform(generator, -LIGHT, LIGHT) * 128
    return _as_bytes((clip.float() - 128) * contrast + 128 + brightness)


def _colour(clip: Tensor, generator: torch.Generator) -> Tensor:
    gains = torch.tensor([_uniform(generator, 1 - LIGHT, 1 + LIGHT) for _ in range(3)])
    saturation = 0.0 if _uniform(generator, 0, 1) < GREY else _uniform(generator, 0.5, 1.5)
    pixels = clip.float() * gains.to(clip.device)
    grey = pixels.mean(dim=-1, keepdim=True)
    return _as_bytes(grey + (pixels - grey) * saturation)


def _still(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Blend a frame over each clip: with equal odds one of its own, or one of any clip of the batch."""
    clips, moments = frames.shape[:2]
    result = frames.clone()
    for number in range(clips):
        other = number if _uniform(generator, 0, 1) < 0.5 else int(torch.randint(clips, (), generator=generator))
        still = frames[other, int(torch.randint(moments, (), generator=generator))].float()
        share = _uniform(generator, 0, STILL)
        result[number] = _as_bytes(frames[number].float() * (1 - share) + still * share)
    return result


def _erase(clip: Tensor, generator: torch.Generator) -> Tensor:
    height, width = clip.shape[1:3]
    area, aspect = _uniform(generator, 0.02, ERASED), math.exp(_uniform(generator, -0.7, 0.7))
    tall = max(1, min(height, round(height * math.sqrt(area * aspect))))
    wide = max(1, min(width, round(width * math.sqrt(area / aspect))))
    top, left = (int(torch.randint(room + 1, (), generator=generator)) for room in (height - tall, width - wide))
    result = clip.clone()
    noise = torch.randint(256, (tall, wide, 3), generator=generator, dtype=torch.uint8)
    result[:, top : top + tall, left : left + wide] = noise.to(clip.device)
    return result


def _speed(clip: Tensor, generator: torch.Generator) -> Tensor:
    """Stretch a part of the clip to the length of the clip, using the nearest frames."""
    moments = len(clip)
    shown = moments / math.exp(_uniform(generator, 0, math.log(SPEED)))
    start = _uniform(generator, 0, moments - shown)
    places = (start + (torch.arange(moments) + 0.5) * shown / moments).long().clamp(0, moments - 1)
    return clip[places]


def _rotate(clip: Tensor, generator: torch.Generator) -> Tensor:
    turn = math.radians(_uniform(generator, -15, 15))
    return _warp(clip, [[math.cos(turn), -math.sin(turn), 0.0], [math.sin(turn), math.cos(turn), 0.0]])


def _shear(clip: Tensor, generator: torch.Generator) -> Tensor:
    return _warp(clip, [[1.0, _uniform(generator, -0.2, 0.2), 0.0], [_uniform(generator, -0.2, 0.2), 1.0, 0.0]])


def _translate(clip: Tensor, generator: torch.Generator) -> Tensor:
    return _warp(clip, [[1.0, 0.0, _uniform(generator, -0.25, 0.25)], [0.0, 1.0, _uniform(generator, -0.25, 0.25)]])


def _gamma(clip: Tensor, generator: torch.Generator) -> Tensor:
    return _as_bytes(255 * (clip.float() / 255) ** math.exp(_uniform(generator, -0.5, 0.5)))


def _posterize(clip: Tensor, generator: torch.Generator) -> Tensor:
    step = 2 ** int(torch.randint(2, 5, (), generator=generator))
    coarse: Tensor = (clip // step) * step
    return coarse


def _blur(clip: Tensor, generator: torch.Generator) -> Tensor:
    pixels = F.pad(clip.permute(0, 3, 1, 2).float(), (1, 1, 1, 1), mode="replicate")
    share = _uniform(generator, 0.3, 1)
    smooth = F.avg_pool2d(pixels, 3, stride=1).permute(0, 2, 3, 1)
    return _as_bytes(clip.float() * (1 - share) + smooth * share)


def _rand(clip: Tensor, generator: torch.Generator) -> Tensor:
    for number in torch.randperm(len(_MILD), generator=generator)[:RANDOM_KINDS].tolist():
        clip = _MILD[number](clip, generator)
    return clip


_MILD: tuple[_Draw, ...] = (_rotate, _shear, _translate, _gamma, _posterize, _blur, _light, _colour)
_ONE: dict[str, _Draw] = {
    "updown": _updown,
    "zoom": _zoom,
    "crop": _crop,
    "light": _light,
    "colour": _colour,
    "erase": _erase,
    "speed": _speed,
    "rand": _rand,
}
_ONE_MIRRORED = {"flip": _flip, "dihedral": _dihedral}
