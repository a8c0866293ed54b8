"""A transformer block written as plain matrix products, so that every exporter supports it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Transformer block with normalisation before attention and MLP (Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.dropout(self._attend(self.norm_attention(tokens)))
        result: Tensor = tokens + self.dropout(self.mlp(self.norm_mlp(tokens)))
        return result

    def _attend(self, tokens: Tensor) -> Tensor:
        _, length, width = tokens.shape
        q, k, v = (
            self.qkv(tokens).reshape(-1, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        )
        weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(2, 3), dim=-1)
        attended: Tensor = self.out((weights @ v).transpose(1, 2).reshape(-1, length, width))
        return attended
