"""Vision towers of Qwen-VL on one fixed grid of patches, from frames to tokens of the language model.

They take any number of runs at once. The towers' own forward packs images of any size one after another. Here the
contract fixes the size: positions, windows and the interpolation of position embeddings are computed once, and windows
of equal size are one batch of attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vidrisk.models.vlm.decoder import HIDDEN
from vidrisk.models.vlm.tower import Scope, embed_patches, full_layers, tokens_from_patches
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.specs import PixelSpec


class FixedGridVision(nn.Module):
    """``uint8 (N, 2, H, W, 3)``, or ``(N, H, W, 3)`` of photos, → merged tokens ``float32 (N, n, k · D)``.

    Each token is followed by those of the k - 1 layers whose features are added in the language model (Qwen3-VL's
    DeepStack).

    Args:
        tower: ``visual`` of Qwen2.5-VL (Bai et al. 2025, https://arxiv.org/abs/2502.13923) or Qwen3-VL
            (https://arxiv.org/abs/2511.21631).
        pixel: size, mean and deviation.

    Attributes:
        height, width: of the grid of merged tokens.
        is_checkpointed: whether activations of blocks are recomputed in the backward pass.

    Raises:
        SettingsError: a size that is not a multiple of patch × merge.
    """

    scale: Tensor
    shift: Tensor
    cos: Tensor
    sin: Tensor
    window_order: Tensor | None
    window_back: Tensor | None
    window_mask: Tensor | None

    def __init__(self, tower: Any, pixel: PixelSpec) -> None:
        super().__init__()
        self.tower = tower
        config = tower.config
        self.patch, self.merge, self.times = config.patch_size, config.spatial_merge_size, config.temporal_patch_size
        side = self.patch * self.merge
        if pixel.height % side or pixel.width % side:
            near = [max(side, round(length / side) * side) for length in (pixel.height, pixel.width)]
            raise SettingsError(
                f"frames of {pixel.height}x{pixel.width} for {type(tower).__name__}",
                allowed=f"multiples of {side} pixels",
                fix=f"set pixel.height {near[0]} and pixel.width {near[1]}",
            )
        self.rows, self.columns = pixel.height // self.patch, pixel.width // self.patch
        self.height, self.width = self.rows // self.merge, self.columns // self.merge
        mean, std = torch.tensor(pixel.mean), torch.tensor(pixel.std)
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1, 1), persistent=False)
        self._place(config)

    def _place(self, config: Any) -> None:
        """Compute everything that depends only on the grid, by transformers' own functions."""
        from transformers import vision_utils

        tower, grid = self.tower, torch.tensor([[1, self.rows, self.columns]])
        unit = self.merge**2
        places = vision_utils.get_vision_position_ids(grid, self.merge)
        cos, sin = tower.rotary_pos_emb(torch.zeros(1), places)
        self.full_layers = full_layers(tower)
        order, self.window = torch.arange(self.rows * self.columns // unit), 0
        mask: Tensor | None = None
        if hasattr(config, "fullatt_block_indexes"):
            order, ends = vision_utils.get_vision_window_index(grid, self.merge, config.window_size, self.patch)
            lengths = (ends[1:] - ends[:-1]).tolist()
            if len(set(lengths)) == 1:
                self.window = int(lengths[0])
            else:  # windows at the edge are smaller: each token sees those of its own window
                number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
                mask = torch.where(number[:, None] == number, 0.0, HIDDEN)
        fine = (order[:, None] * unit + torch.arange(unit)).flatten()
        self.register_buffer("cos", cos[fine].detach(), persistent=False)
        self.register_buffer("sin", sin[fine].detach(), persistent=False)
        is_moved = not torch.equal(order, torch.arange(len(order)))
        self.register_buffer("window_order", fine if is_moved else None, persistent=False)
        self.register_buffer("window_back", torch.argsort(order) if is_moved else None, persistent=False)
        self.register_buffer("window_mask", mask, persistent=False)
        self.added: Any = None
        if hasattr(tower, "pos_embed"):
            self.added = vision_utils.get_vision_interpolation_indices_and_weights(
                grid,
                num_grid_per_side=tower.num_grid_per_side,
                mode=tower.interpolation_mode,
                align_corners=tower.interpolation_align_corners,
                spatial_merge_size=self.merge,
            )

    def forward(self, frames: Tensor) -> Tensor:
        hidden = self._embed(frames)
        full, windowed = Scope(), Scope(self._split, mask=self.window_mask)
        found = tokens_from_patches(
            self.tower, hidden, self.cos, self.sin, lambda number: full if number in self.full_layers else windowed
        )
        tokens = torch.cat(found, dim=-1)
        tokens = tokens.reshape(-1, self.height * self.width, tokens.shape[-1])
        return _reorder(tokens, self.window_back).float()

    def _split(self, heads: Tensor) -> Tensor:
        """Return windows of one size as a batch."""
        return heads.reshape(-1, self.window, *heads.shape[2:]) if self.window else heads

    def _embed(self, frames: Tensor) -> Tensor:
        """Embed frames as patches in the order of windows, ``(N, rows · columns, D)``."""
        pixels = frames.to(torch.float32)  # first: TensorRT takes uint8 into a Cast only, and has at most 8 axes
        if pixels.ndim == 4:  # a photo is a video of one moment, repeated for all frames of a patch
            pixels = pixels[:, None].expand(-1, self.times, -1, -1, -1)
        pixels = pixels.permute(0, 4, 1, 2, 3) * self.scale + self.shift  # (N, 3, t, H, W)
        patch, merge = self.patch, self.merge
        blocks = pixels.reshape(-1, 3 * self.times, self.height, merge, patch, self.width, merge, patch)
        # (N, block row, block column, row in it, column in it, 3 · t, patch, patch)
        patches = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(
            -1, self.rows * self.columns, 3 * self.times * patch * patch
        )
        hidden = embed_patches(self.tower, _reorder(patches, self.window_order))
        if self.added is not None:
            places, weights = self.added
            table = (self.tower.pos_embed(places.to(hidden.device)) * weights.to(hidden)[:, :, None]).sum(1)
            hidden = hidden + _reorder(table[None], self.window_order)
        return hidden


def _reorder(tokens: Tensor, order: Tensor | None) -> Tensor:
    return tokens if order is None else tokens.index_select(1, order)
