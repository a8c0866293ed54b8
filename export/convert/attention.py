"""Attention as an exported graph states it: two products and a softmax, which every engine knows how to fuse.

torch's exporter takes ``scaled_dot_product_attention`` apart with nine nodes to transpose the keys, and transformers
adds a mask that hides nothing, with a test for NaN behind the softmax. TensorRT fuses none of that into its attention
kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

NAME = "vidrisk_plain"


@contextmanager
def plain_attention(module: nn.Module) -> Iterator[None]:
    """Let the transformers in ``module`` compute plain attention, and afterwards what they did before."""
    parts: list[Any] = list(module.modules())
    models = [
        part for part in parts if hasattr(part, "set_attn_implementation") and part._can_set_attn_implementation()
    ]  # the others would only say that they cannot
    before = [model.config._attn_implementation for model in models]
    if models:
        _register()
    try:
        for model in models:
            model.set_attn_implementation(NAME)
        yield
    finally:
        for model, name in zip(models, before, strict=True):
            model.set_attn_implementation(name)


def _register() -> None:
    """Make it known to transformers, without a mask of its own: an encoder's frames have no padding to hide."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """``(B, heads, T, d)`` three times → ``(B, T, heads, d)``. What it cannot do, torch's own does."""
    if attention_mask is not None or getattr(module, "is_causal", False) or key.shape[1] != query.shape[1]:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return result
    # The queries are scaled, not the products: those overflow sooner in FP16.
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    weights = torch.softmax((query * scale) @ key.transpose(2, 3), dim=-1)
    return (weights @ value).transpose(1, 2), None
