"""Vision towers of Qwen-VL with a dynamic grid: images and videos of any size, concatenated as their processor does.

Everything that follows from the grids (positions, segments, windows, weights of position embeddings) is an input:
``runtimes/vision_grid.py`` computes it without torch. The reference output is that of transformers' own forward.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vidrisk.export.trained import DynamicGraph
from vidrisk.models.vlm.decoder import HIDDEN
from vidrisk.models.vlm.dynamic_readme import readme
from vidrisk.models.vlm.tower import Scope, embed_patches, full_layers, tokens_from_patches
from vidrisk.runtimes import vision_grid
from vidrisk.runtimes.contract.specs import PixelSpec, TensorSpec
from vidrisk.runtimes.runner import Arrays

NAME, SETTINGS = "vision", "vision.json"
Grids = Sequence[tuple[int, int, int]]


class WindowedVision(nn.Module):
    """Packed patches → merged tokens, by a tower with windows of attention (Qwen2.5-VL).

    Layers of full attention separate segments by a block-diagonal mask. In the others each window is a row of its own,
    padded to the size of a whole one, so that computation grows with the number of patches, not with its square.
    """

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower
        config = tower.config
        self.unit = config.spatial_merge_size**2
        self.room = (config.window_size // config.patch_size) ** 2
        self.full_layers = full_layers(tower)

    def forward(
        self,
        pixel_values: Tensor,
        position_ids: Tensor,
        cu_seqlens: Tensor,
        window_index: Tensor,
        cu_window_seqlens: Tensor,
    ) -> tuple[Tensor, ...]:
        order = (window_index[:, None] * self.unit + torch.arange(self.unit)).flatten()
        hidden = embed_patches(self.tower, pixel_values.index_select(0, order))
        cos, sin = self.tower.rotary_pos_emb(hidden, position_ids.index_select(0, order))
        full, windowed = _segments(cu_seqlens, order.shape[0]), _windows(cu_window_seqlens, order.shape[0], self.room)
        found = tokens_from_patches(
            self.tower, hidden[None], cos, sin, lambda number: full if number in self.full_layers else windowed
        )
        places = torch.zeros_like(window_index).scatter(0, window_index, torch.arange(window_index.shape[0]))
        return tuple(tokens.index_select(0, places) for tokens in found)


class InterpolatedVision(nn.Module):
    """Packed patches → merged tokens, and those of DeepStack, by a tower with a table of position embeddings.

    This is the tower of Qwen3-VL.
    """

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower

    def forward(
        self,
        pixel_values: Tensor,
        position_ids: Tensor,
        cu_seqlens: Tensor,
        interp_indices: Tensor,
        interp_weights: Tensor,
    ) -> tuple[Tensor, ...]:
        hidden = embed_patches(self.tower, pixel_values)
        hidden = hidden + (self.tower.pos_embed(interp_indices) * interp_weights[:, :, None]).sum(1)
        cos, sin = self.tower.rotary_pos_emb(hidden, position_ids)
        full = _segments(cu_seqlens, hidden.shape[0])
        return tuple(tokens_from_patches(self.tower, hidden[None], cos, sin, lambda number: full))


def _number(ends: Tensor, length: int) -> Tensor:
    """Return the segment number of each patch, ``(n,)``."""
    return (torch.arange(length)[:, None] >= ends[None, 1:]).sum(-1)


def _segments(ends: Tensor, length: int) -> Scope:
    number = _number(ends, length)
    return Scope(mask=torch.where(number[:, None] == number[None], 0.0, HIDDEN))


def _windows(ends: Tensor, length: int, room: int) -> Scope:
    """Return windows of at most ``room`` patches as rows padded to ``room``."""
    patches = ends[:-1, None] + torch.arange(room)
    is_there = patches < ends[1:, None]
    taken = torch.where(is_there, patches, 0).flatten()
    number = _number(ends, length)
    back = number * room + torch.arange(length) - ends.index_select(0, number)
    return Scope(
        split=lambda heads: heads[0].index_select(0, taken).reshape(-1, room, *heads.shape[2:]),
        join=lambda heads: heads.flatten(0, 1).index_select(0, back)[None],
        mask=torch.where(is_there, 0.0, HIDDEN)[:, None, None],
    )


def dynamic_vision_from_tower(tower: Any, pixel: PixelSpec) -> DynamicGraph:
    """Return a tower of Qwen2.5-VL or Qwen3-VL as a graph with a dynamic grid, in float32.

    Args:
        tower: may carry an unmerged adapter.
        pixel: mean and deviation that it was trained with.
    """
    if any(parameter.dtype != torch.float32 for parameter in tower.parameters()):
        tower = copy.deepcopy(tower).float()
    config = tower.config
    merge, unit = config.spatial_merge_size, config.spatial_merge_size**2
    has_windows = hasattr(config, "fullatt_block_indexes")
    grid = {
        "merge": merge,
        "window": config.window_size // merge // config.patch_size if has_windows else 0,
        "table": 0 if has_windows else tower.num_grid_per_side,
    }
    row = tower.patch_embed.proj.weight[0].numel()
    patches, tokens = f"{unit}*tokens", "tokens"
    inputs = [
        TensorSpec("pixel_values", "float32", (patches, row)),
        TensorSpec("position_ids", "int64", (patches, 2)),
        TensorSpec("cu_seqlens", "int64", ("bounds",)),
    ]
    inputs += (
        [TensorSpec("window_index", "int64", (tokens,)), TensorSpec("cu_window_seqlens", "int64", ("window_bounds",))]
        if has_windows
        else [
            TensorSpec("interp_indices", "int64", (patches, 4)),
            TensorSpec("interp_weights", "float32", (patches, 4)),
        ]
    )
    names = [
        "tokens",
        *(f"deepstack_{number}" for number in range(len(getattr(config, "deepstack_visual_indexes", ())))),
    ]
    outputs = tuple(TensorSpec(name, "float32", (tokens, config.out_hidden_size)) for name in names)
    pixels = {"patch": config.patch_size, "merge": merge, "frames_per_patch": config.temporal_patch_size}
    test_grids = _make_test_grids(grid["window"] or 3, merge)
    cases = {case: _case(tower, grids, grid, row, names) for case, grids in test_grids.items()}
    return DynamicGraph(
        NAME,
        WindowedVision(tower) if has_windows else InterpolatedVision(tower),
        tuple(inputs),
        outputs,
        cases,
        {
            SETTINGS: json.dumps({"grid": grid, "pixels": {**pixels, "mean": pixel.mean, "std": pixel.std}}, indent=1)
            + "\n",
            "vision_grid.py": Path(vision_grid.__file__).read_text(encoding="utf-8"),
            "README.md": readme(inputs, outputs, pixels),
        },
    )


def _make_test_grids(window: int, merge: int) -> dict[str, Grids]:
    """Return test grids by description; a graph that has baked in something of its example fails on them."""
    edge, whole, more = merge * (window + 1), merge * window, merge * (2 * window + 1)
    return {
        "two images and a video of several sizes": ((1, edge, more), (3, whole, edge), (1, merge, whole)),
        "unequal windows": ((1, edge, more),),
        "equal windows": ((1, whole, 2 * whole),),
        "two images": ((1, edge, whole), (1, merge, more)),
        "several frames": ((4, whole, edge),),
        "one token": ((1, merge, merge),),
    }


@torch.inference_mode()
def _case(tower: Any, grids: Grids, settings: dict[str, int], row: int, names: Sequence[str]) -> tuple[Arrays, Arrays]:
    """Return inputs of a graph, and the output of transformers' own forward for them."""
    patches = sum(moments * height * width for moments, height, width in grids)
    pixels = np.random.default_rng(patches).normal(size=(patches, row)).astype(np.float32)
    output = tower(torch.from_numpy(pixels), grid_thw=torch.tensor(grids))
    found = (output.pooler_output, *getattr(output, "deepstack_features", ()))
    feed = {"pixel_values": pixels, **vision_grid.vision_inputs_from_grid(grids, **settings)}
    return feed, {name: tokens.numpy() for name, tokens in zip(names, found, strict=True)}
