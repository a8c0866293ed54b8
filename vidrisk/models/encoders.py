"""Encoders: the contract's pixels → features ``float32 (N, D)``, normalisation folded in.

A backbone is the embedded ``efficientnet-lite0``, a Hugging Face hub id, or a local folder in the same layout. Its
family (``families``) determines whether it sees single frames ``uint8 (N, H, W, 3)`` or windows ``uint8 (N, T, H, W,
3)``. A frame encoder can also take pairs ``uint8 (N, 2, H, W, 3)``: a frame, and what changes until the next one.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch
from torch import Tensor, nn

from vidrisk.models import Pool
from vidrisk.models.families import FAMILIES, Family, Source, family_of
from vidrisk.runtimes.contract.errors import SettingsError, first_line
from vidrisk.runtimes.contract.specs import PixelSpec

log = logging.getLogger(__name__)

PAIR = 2  # frames per picture and its difference image
DIFFERENCE_GAIN, GREY = 2.0, 128.0  # unchanged pixels are grey in a difference image


class Encoder(nn.Module):
    """A backbone wrapped to take the contract's pixels and return features.

    Args:
        backbone: takes normalised pixels; its output is defined by its family.
        pixel: its mean and std become part of the graph.
        pool: how the backbone's output is reduced to one vector; not ``auto``.
        family: of the backbone.
        frames: frames per window, T; only if the family sees windows.
        rgb_diff: see pairs of frames, and describe the first one and the difference image of both, side by side.

    Attributes:
        pixel: as given.
        width: D, size of a feature.
        group: frames per feature: 1, ``PAIR``, or a window's.
        frozen_blocks: blocks at the bottom that are not trained, in a backbone that can be run in two parts.
        is_frozen: whether the whole encoder is excluded from training.
    """

    scale: Tensor
    shift: Tensor
    backbone: Any
    token_grid: tuple[int, int]

    def __init__(
        self,
        backbone: nn.Module,
        pixel: PixelSpec,
        *,
        pool: Pool,
        family: Family,
        frames: int = 1,
        rgb_diff: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pixel = pixel
        self.pool = pool
        self.family = family
        self.rgb_diff = rgb_diff
        self.group = frames if self.sees_windows else PAIR if rgb_diff else 1
        self.frozen_blocks = 0
        self.is_frozen = False
        mean, std = torch.tensor(pixel.mean), torch.tensor(pixel.std)
        channels = (1, 3, 1, 1, 1) if self.sees_windows else (1, 3, 1, 1)
        self.register_buffer("scale", (1 / (255 * std)).view(channels), persistent=False)
        self.register_buffer("shift", (-mean / std).view(channels), persistent=False)
        self.input_shape = (self.group, *pixel.frame_shape) if self.sees_windows or rgb_diff else pixel.frame_shape
        with torch.inference_mode():
            probe = torch.zeros((1, *self.input_shape), dtype=torch.uint8)
            self.width = int(self.eval()(probe).shape[1])

    @property
    def sees_windows(self) -> bool:
        """Whether an input is a window of T frames instead of one frame."""
        return self.family.per == "window"

    def train(self, mode: bool = True) -> Encoder:
        """Set training mode, except for batch norms, whose statistics belong to the pretrained weights."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def lower(self, frames: Tensor) -> Tensor:
        """Run the part below every trained layer, whose output can be kept between epochs.

        Returns the frames if there is no such part. ``upper(lower(frames))`` equals ``forward(frames)``.
        """
        if self.is_frozen:
            features: Tensor = self(frames)
            return features
        if self.frozen_blocks:
            hidden: Tensor = self.backbone.lower(self._pixels(frames), self.frozen_blocks)
            return hidden.reshape(-1, PAIR, *hidden.shape[1:]) if self.rgb_diff else hidden
        return frames

    def upper(self, hidden: Tensor) -> Tensor:
        if self.is_frozen:
            return hidden
        if self.frozen_blocks:
            hidden = hidden.flatten(0, 1) if self.rgb_diff else hidden
            return self._side_by_side(_pool(self.backbone.upper(hidden, self.frozen_blocks), self.pool))
        features: Tensor = self(hidden)
        return features

    def forward(self, frames: Tensor) -> Tensor:
        return self._side_by_side(_pool(self.family.run(self.backbone, self._pixels(frames)), self.pool))

    def _side_by_side(self, features: Tensor) -> Tensor:
        """Join the features of a frame and of its difference image: ``(2N, D)`` → ``(N, 2D)``."""
        return features.reshape(-1, PAIR * features.shape[1]) if self.rgb_diff else features

    def tokens(self, frames: Tensor) -> Tensor:
        """Return the positions of the last feature map, row by row, without class tokens.

        Args:
            frames: ``uint8 (N, H, W, 3)``.

        Returns:
            ``(N, h · w, D)``.
        """
        output = self.family.run(self.backbone, self._pixels(frames))
        if isinstance(output, tuple):
            output = output[-1]
        values: Tensor = output if isinstance(output, Tensor) else output.last_hidden_state
        if values.ndim == 4:
            self.token_grid = (int(values.shape[2]), int(values.shape[3]))
            return values.flatten(2).transpose(1, 2)
        patch = self.backbone.config.patch_size
        self.token_grid = (self.input_shape[0] // patch, self.input_shape[1] // patch)
        return values[:, -self.token_grid[0] * self.token_grid[1] :]  # class and register tokens come first

    def _pixels(self, frames: Tensor) -> Tensor:
        # Cast, then permute: TensorRT takes a uint8 input into a Cast only.
        values = frames.to(torch.float32)
        if self.rgb_diff:
            first, second = values.unbind(1)
            change = ((second - first) * DIFFERENCE_GAIN + GREY).clamp(0, 255)
            values = torch.stack((first, change), dim=1).flatten(0, 1)
        if not self.sees_windows:
            return values.permute(0, 3, 1, 2) * self.scale + self.shift
        # Channels first, as the patch embedding layer expects them. Backbones that take channels after the frames
        # undo the second transposition, so that none is left between the pixels and that layer.
        return (values.permute(0, 4, 1, 2, 3) * self.scale + self.shift).transpose(1, 2)


def _pool(output: Any, pool: Pool) -> Tensor:
    if isinstance(output, Tensor):
        output = (output,)
    if isinstance(output, tuple):  # feature maps, finest first
        maps = output if pool == "stages" else output[-1:]
        means = [one.mean(dim=(2, 3)) for one in maps]
        return torch.cat([*means, *(one.amax(dim=(2, 3)) for one in maps)] if pool != "avg" else means, dim=1)
    if pool == "pooler":
        pooled: Tensor = output.pooler_output
        return pooled
    tokens: Tensor = output.last_hidden_state
    if tokens.ndim == 4:  # a convolutional Hugging Face model
        return tokens.mean(dim=(2, 3))
    return tokens[:, 0] if pool == "cls" else tokens.mean(dim=1)


def build_encoder(
    backbone: str,
    *,
    pixel: dict[str, Any] | None = None,
    pool: Pool = "auto",
    frames: int = 1,
    rgb_diff: bool = False,
    local_only: bool = False,
) -> Encoder:
    """Load a backbone and wrap it; code stored beside its weights is never run.

    Args:
        backbone: ``efficientnet-lite0``, a hub id, or a local folder.
        pixel: fields of ``PixelSpec`` that override those the backbone was trained with.
        pool: ``auto`` takes the family's own.
        frames: frames per window, T, for a backbone that sees windows.
        rgb_diff: give a frame encoder pairs of frames: the first one, and the difference image.
        local_only: take a hub id from earlier downloads, without network access.

    Raises:
        SettingsError: an unknown backbone, a pool that it does not have, or windows that it does not take.
        MissingExtra: transformers or the embedded weights are not installed.
    """
    source = Source(backbone, local_only)
    family = family_of(source)
    pool = family.check_pool(pool, backbone)
    family.check_frames(frames, backbone)
    spec = pixel_spec(family.pixel(source), pixel)
    if family.name not in FAMILIES:
        log.warning(
            "%s is of family %s, which is not covered by tests (CONTRIBUTING: adding a backbone): its export is "
            "checked by the gate alone",
            backbone,
            family.name,
        )
    loaded = family.load(source, spec, frames)
    if pool != "pooler":
        drop_pooling_head(loaded)
    try:
        return Encoder(loaded, spec, pool=pool, family=family, frames=frames, rgb_diff=rgb_diff)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        size = f"{spec.height}x{spec.width}"
        reason = first_line(error)
        raise SettingsError(
            f"backbone {backbone!r} does not encode {size} images with pool {pool!r}: {reason}",
            fix="choose an image encoder, and a size that it takes",
        ) from error


def drop_pooling_head(backbone: nn.Module) -> None:
    """Remove a head that pools tokens by attention, such as SigLIP's; only the pool ``pooler`` uses it."""
    for module in backbone.modules():
        if getattr(module, "use_head", False):
            module.use_head, module.head = False, nn.Identity()  # type: ignore[assignment]


def default_pixel(backbone: str) -> PixelSpec:
    """Return the ``PixelSpec`` that the backbone was trained with: its size, filter, mean and deviation."""
    source = Source(backbone)
    return family_of(source).pixel(source)


def pixel_spec(base: PixelSpec, override: dict[str, Any] | None) -> PixelSpec:
    known = {field.name for field in dataclasses.fields(PixelSpec)}
    unknown = set(override or {}) - known
    if unknown:
        raise SettingsError(f"pixel.{sorted(unknown)[0]} is unknown", allowed=", ".join(sorted(known)))
    return dataclasses.replace(base, **(override or {}))
