"""Tests of the clip classifier: clips in, logits per target out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from vidrisk.models.classifier import ClipClassifier
from vidrisk.models.heads import Head
from vidrisk.runtimes import Target


def test_frames_of_one_clip_stay_together(adapted_encoder: Callable[..., Any], clips: Callable[..., Any]) -> None:
    encoder = adapted_encoder("vit")
    head = Head(
        "segments",
        width=encoder.width,
        frames=3,
        targets=(Target(name="action", labels=("a", "b", "c")),),
        hidden=8,
        dropout=0.1,
    )
    torch.nn.init.normal_(head.classifiers[0].weight)
    model = ClipClassifier(encoder, head).eval()
    frames = torch.from_numpy(clips(4, 3))
    with torch.inference_mode():
        (logits,), _ = model(frames)
        (alone,), _ = model(frames[2:3])
        (shuffled,), further = model(frames.flip(1))
    assert logits.shape == (4, 3)
    assert further is None
    torch.testing.assert_close(logits[2:3], alone, atol=1e-4, rtol=1e-4)
    assert (logits - shuffled).abs().max() > 1e-3


def test_lora_and_head_are_what_is_trained(adapted_encoder: Callable[..., Any], clips: Callable[..., Any]) -> None:
    encoder = adapted_encoder("vit")
    head = Head(
        "linear",
        width=encoder.width,
        frames=2,
        targets=(Target(name="action", labels=("a", "b")),),
        hidden=8,
        dropout=0.0,
    )
    torch.nn.init.normal_(head.classifiers[0].weight)
    model = ClipClassifier(encoder, head).train()
    model(torch.from_numpy(clips(2, 2)))[0][0].pow(2).sum().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert trained == {name for name, p in model.named_parameters() if "lora_" in name or name.startswith("head.")}
