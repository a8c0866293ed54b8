"""ViViT (Arnab et al. 2021, https://arxiv.org/abs/2103.15691), its model 1: a window at a time, in tubelets of two frames.

What its own classifier reads is the class token. A checkpoint has a position per tubelet (32 frames of 224 pixels in
``google/vivit-b-16x2-*``); for other windows they are interpolated over time and space. The interpolation in transformers does not
do for that: it takes the tubelets of a whole clip for one square image.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from vidrisk.models.families.hub import hub_family
from vidrisk.models.families.positions import check_grid, pair, resample_positions
from vidrisk.runtimes.contract.specs import PixelSpec


def _fit(tower: Any, pixel: PixelSpec, frames: int) -> None:
    config, embeddings = tower.config, tower.embeddings
    tubelet = tuple(config.tubelet_size)
    wanted = check_grid("ViViT", pixel, frames, tubelet)
    sizes = config.num_frames, *pair(config.image_size)
    grid = tuple(size // step for size, step in zip(sizes, tubelet, strict=True))
    positions = embeddings.position_embeddings.data
    embeddings.position_embeddings = nn.Parameter(resample_positions(positions, grid, wanted, "trilinear", class_tokens=1))
    embeddings.image_size = pixel.height, pixel.width  # it refuses others


FAMILY = hub_family("vivit", "VivitModel", "cls", pools=("auto", "cls", "mean"), per="window", tubelet=2, fit=_fit,
                    options=lambda pixel, frames: {"add_pooling_layer": False})
