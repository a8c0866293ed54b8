"""TimeSformer (Bertasius et al. 2021, https://arxiv.org/abs/2102.05095): a window at a time, over time and over space by turns.

What its own classifier reads is the class token. A checkpoint has a position per frame and one per patch (8 frames of 224 pixels in
``facebook/timesformer-base-*``); for other windows the nearest ones are taken, once, as transformers does in every pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vidrisk.models.families.hub import hub_family
from vidrisk.models.families.positions import check_grid, pair, resample_positions
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.specs import PixelSpec


class _Attention(nn.Module):
    """Self-attention in torch's fused kernels, and in an exported graph as two products and a softmax of scaled queries.

    That of transformers keeps all weights for the backward pass, and scales the products, which overflow in FP16 then.
    """

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.qkv: nn.Linear = original.qkv
        self.heads: int = original.num_heads
        self.dropout: float = original.attn_drop.p

    def forward(self, hidden: Tensor, output_attentions: bool = False) -> tuple[Tensor]:
        """``(B, T, D)`` → ``(B, T, D)``."""
        query, key, value = self.qkv(hidden).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if torch.compiler.is_exporting():
            weights = torch.softmax((query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1), dim=-1)
            attended = weights @ value
        else:
            dropout = self.dropout if self.training else 0.0
            attended = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return (attended.transpose(1, 2).flatten(2),)


def _fit(tower: Any, pixel: PixelSpec, frames: int) -> None:
    config, embeddings = tower.config, tower.embeddings
    if config.attention_type == "space_only":
        raise SettingsError("a TimeSformer of attention type 'space_only' sees frames one by one",
                            allowed="divided_space_time, joint_space_time", fix="choose another checkpoint of it")
    (image_height, image_width), (height, width) = pair(config.image_size), pair(config.patch_size)
    wanted = check_grid("TimeSformer", pixel, frames, (1, height, width))
    positions, times = embeddings.position_embeddings.data, embeddings.time_embeddings.data
    grid = image_height // height, image_width // width
    embeddings.position_embeddings = nn.Parameter(resample_positions(positions, grid, wanted[1:], "nearest", class_tokens=1))
    embeddings.time_embeddings = nn.Parameter(resample_positions(times, times.shape[1:2], wanted[:1], "nearest"))
    # Its layers divide the tokens by these three.
    config.num_frames, config.image_size, config.patch_size = frames, pixel.width, width
    for layer in tower.encoder.layer:
        for name in ("attention", "temporal_attention"):
            if hasattr(layer, name):
                block = getattr(layer, name)
                block.attention = _Attention(block.attention)


FAMILY = hub_family("timesformer", "TimesformerModel", "cls", pools=("auto", "cls", "mean"), per="window", fit=_fit)
