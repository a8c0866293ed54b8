"""Plain attention for exported graphs: two products and a softmax, which every engine can fuse.

torch's exporter decomposes ``scaled_dot_product_attention`` with nine nodes to transpose the keys, and transformers
adds a mask that hides nothing, with a test for NaN after the softmax. TensorRT fuses none of that into its attention
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
    """Make the transformers in ``module`` compute plain attention, and restore their own afterwards."""
    parts: list[Any] = list(module.modules())
    models = [
        part for part in parts if hasattr(part, "set_attn_implementation") and part._can_set_attn_implementation()
    ]  # the others would only report that they cannot
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
    """Register plain attention in transformers without a mask: an encoder's frames have no padding to hide."""
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
    """Map ``(B, heads, T, d)`` queries, keys and values to ``(B, T, heads, d)``.

    Unsupported cases fall back to torch's implementation.
    """
    if attention_mask is not None or getattr(module, "is_causal", False) or key.shape[1] != query.shape[1]:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return result
    # Scale the queries, not the products, which would overflow sooner in FP16.
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    weights = torch.softmax((query * scale) @ key.transpose(2, 3), dim=-1)
    return (weights @ value).transpose(1, 2), None
