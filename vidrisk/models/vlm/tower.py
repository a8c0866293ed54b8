"""The layers of Qwen-VL's vision towers on embedded patches, for any scope of attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def _keep(tokens: Tensor) -> Tensor:
    return tokens


@dataclass(frozen=True)
class Scope:
    """Scope of attention in a layer: which patches see one another.

    Attributes:
        split: heads ``(B, n, heads, d)`` → runs of patches that see one another, ``(S, m, heads, d)``.
        join: the inverse.
        mask: added to the scores of each run, ``(…, m, m)``.
    """

    split: Callable[[Tensor], Tensor] = _keep
    join: Callable[[Tensor], Tensor] = _keep
    mask: Tensor | None = None


def full_layers(tower: Any) -> set[int]:
    """Return the numbers of the layers that attend beyond windows: all layers if the tower has no windows."""
    return set(getattr(tower.config, "fullatt_block_indexes", range(len(tower.blocks))))


def embed_patches(tower: Any, patches: Tensor) -> Tensor:
    """Embed patches ``(…, 3 · t · p · p)`` → ``(…, D)``."""
    projection = tower.patch_embed.proj
    weight = projection.weight.flatten(1)
    return nn.functional.linear(patches.to(weight.dtype), weight, projection.bias)


def tokens_from_patches(
    tower: Any, hidden: Tensor, cos: Tensor, sin: Tensor, scope_of: Callable[[int], Scope]
) -> list[Tensor]:
    """Run all layers and mergers.

    Args:
        tower: ``visual`` of Qwen2.5-VL or Qwen3-VL.
        hidden: embedded patches ``(B, n, D)``.
        cos: rotary positions ``(n, d)``.
        sin: rotary positions ``(n, d)``.
        scope_of: number of a layer → its scope of attention.

    Returns:
        Merged tokens, followed by those of DeepStack's layers, ``(B · n / merge², W)`` each.
    """
    deep = list(getattr(tower, "deepstack_visual_indexes", ()))
    features: dict[int, Tensor] = {}
    for number, block in enumerate(tower.blocks):
        arguments = block, hidden, cos, sin, scope_of(number)
        is_kept = not (block.training and getattr(block, "gradient_checkpointing", False))
        hidden = _layer(*arguments) if is_kept else checkpoint(_layer, *arguments, use_reentrant=False)
        if number in deep:
            features[number] = _merge(tower.deepstack_merger_list[deep.index(number)], hidden)
    return [_merge(tower.merger, hidden), *(features[number] for number in deep)]


def _merge(merger: Any, hidden: Tensor) -> Tensor:
    """Merge patches into tokens, in the type of the merger: a trained one is more precise than its tower."""
    tokens: Tensor = merger(hidden.to(next(merger.parameters()).dtype))
    return tokens


def _layer(block: Any, hidden: Tensor, cos: Tensor, sin: Tensor, scope: Scope) -> Tensor:
    hidden = hidden + _attend(block.attn, block.norm1(hidden), cos, sin, scope)
    result: Tensor = hidden + block.mlp(block.norm2(hidden))
    return result


def _attend(attention: Any, hidden: Tensor, cos: Tensor, sin: Tensor, scope: Scope) -> Tensor:
    _, length, width = hidden.shape
    size = width // attention.num_heads
    q, k, v = attention.qkv(hidden).reshape(-1, length, 3, attention.num_heads, size).unbind(2)
    q, k = _rotate(q, cos, sin) * size**-0.5, _rotate(k, cos, sin)
    q, k, v = (scope.split(each).transpose(1, 2) for each in (q, k, v))
    scores = q @ k.transpose(2, 3)
    weights = torch.softmax(scores if scope.mask is None else scores + scope.mask.to(scores), dim=-1)
    joined: Tensor = attention.proj(scope.join((weights @ v).transpose(1, 2)).reshape(-1, length, width))
    return joined


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = heads.float().chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (heads.float() * cos[:, None] + turned * sin[:, None]).to(heads.dtype)
