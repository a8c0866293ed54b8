"""Tests of attention as plain operators in an exported graph, with unchanged results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from backbones import BACKBONES, TRANSFORMERS, WINDOW
from torch import nn

from vidrisk.export.convert.attention import NAME, plain_attention
from vidrisk.export.convert.merge import merge_trained

Make = Callable[..., Any]


@pytest.mark.slow
@pytest.mark.parametrize("family", TRANSFORMERS)
def test_the_graph_holds_two_products_a_softmax_and_no_mask(exported_encoder: Make, family: str) -> None:
    nodes = onnx.load(str(exported_encoder(family).path)).graph.node
    counts = Counter(node.op_type for node in nodes)
    assert not {"IsNaN", "Where"} & set(counts)
    made = {name: node for node in nodes for name in node.output}
    layers = [node for node in nodes if node.op_type == "Softmax" and "head" not in node.name]
    assert len(layers) == 3 * BACKBONES[family].softmaxes
    for softmax in layers:
        scores = made[softmax.input[0]]
        queries, keys = (made[name] for name in scores.input)
        assert (scores.op_type, queries.op_type, keys.op_type) == ("MatMul", "Mul", "Transpose")
        assert [node.op_type for node in nodes if softmax.output[0] in node.input] == ["MatMul"]


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_the_module_computes_the_same_and_is_left_as_it_was(adapted_encoder: Make, clips: Make, family: str) -> None:
    module = merge_trained(adapted_encoder(family))
    named = ("eager", "eager") if family == "timesformer" else ("sdpa", NAME)  # that has an attention of its own
    frames = torch.from_numpy(clips(3, WINDOW) if BACKBONES[family].sees_windows else clips(3)[:, 0])
    with torch.inference_mode():
        before = module(frames).numpy()
        with plain_attention(module):
            assert module.backbone.config._attn_implementation == named[1]
            plain = module(frames).numpy()
        assert module.backbone.config._attn_implementation == named[0]
        after = module(frames).numpy()
    assert np.abs(plain - before).max() < 1e-4 * np.abs(before).max()
    np.testing.assert_array_equal(after, before)


def test_it_is_left_as_it_was_after_an_error(adapted_encoder: Make) -> None:
    module = merge_trained(adapted_encoder("vit"))
    with pytest.raises(ZeroDivisionError), plain_attention(module):
        raise ZeroDivisionError
    assert module.backbone.config._attn_implementation == "sdpa"


def test_modules_without_attention_are_left_alone() -> None:
    with plain_attention(nn.Linear(2, 2)):
        pass


def test_what_it_cannot_do_is_done_by_torch(adapted_encoder: Make) -> None:
    """Attention with a mask, and attention in a causal module, are computed by torch."""
    from vidrisk.export.convert.attention import _attention

    query, key, value = torch.randn(3, 2, 4, 5, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool).tril()
    causal = nn.Module()
    causal.is_causal = True  # type: ignore[assignment]
    expected = nn.functional.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2)
    for module, given in ((nn.Module(), mask), (causal, None)):
        torch.testing.assert_close(_attention(module, query, key, value, given)[0], expected)
    everything = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    torch.testing.assert_close(_attention(nn.Module(), query, key, value, None)[0], everything)
