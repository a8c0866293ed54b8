"""Tests of heads: one logits tensor per target, and sensitivity to order where a head promises it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from vidrisk.models.heads import QUIET, AttentionOverTime, Head, SegmentsOfTime
from vidrisk.runtimes import Target
from vidrisk.runtimes.contract.errors import SettingsError

KINDS = ["linear", "mlp", "segments", "motion", "attention", "transformer"]
SEES_ORDER = {"linear": False, "mlp": False, "segments": True, "motion": True, "attention": True, "transformer": True}
TARGETS = (Target(name="defect", labels=("a", "b")), Target(name="level", labels=("1", "2", "3"), ordered=True))


def make(kind: Any, frames: int = 6, hidden: int = 16, dropout: float = 0.3) -> Head:
    torch.manual_seed(0)
    head = Head(kind, width=12, frames=frames, targets=TARGETS, hidden=hidden, dropout=dropout)
    for parameter in head.parameters():  # as after training: a fresh head starts with zeros
        nn.init.normal_(parameter, std=0.5)
    return head.eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", [1, 2, 3, 8, 13])
def test_shapes_for_clips_of_any_length(kind: str, frames: int) -> None:
    logits = make(kind, frames)(torch.randn(5, frames, 12))
    assert isinstance(logits, tuple)
    assert [tuple(t.shape) for t in logits] == [(5, 2), (5, 3)]
    assert all(torch.isfinite(t).all() for t in logits)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_and_the_features_get_a_gradient(kind: str) -> None:
    head = make(kind, dropout=0.0).train()
    features = torch.randn(8, 6, 12, requires_grad=True)
    sum((logits**2).sum() for logits in head(features)).backward()
    assert features.grad is not None
    assert (features.grad.abs().sum(dim=(0, 2)) > 0).all()  # from every moment
    parameters = dict(head.named_parameters())
    assert not [name for name, p in parameters.items() if p.grad is None]
    assert not [name for name, p in parameters.items() if p.grad.abs().sum() == 0]


@pytest.mark.parametrize(("kind", "sees_order"), SEES_ORDER.items())
def test_a_reversed_clip(kind: str, sees_order: bool) -> None:
    head, features = make(kind), torch.randn(4, 6, 12)
    difference = max((a - b).abs().max().item() for a, b in zip(head(features), head(features.flip(1)), strict=True))
    assert difference > 1e-2 if sees_order else difference < 1e-5


@pytest.mark.parametrize(
    ("kind", "is_blind"), [("motion", True), ("transformer", True), ("segments", False), ("linear", False)]
)
def test_what_stays_all_through_a_clip_is_unknown_to_heads_of_motion(kind: str, is_blind: bool) -> None:
    head, features, scene = make(kind), torch.randn(4, 6, 12), torch.randn(4, 1, 12)
    difference = max((a - b).abs().max().item() for a, b in zip(head(features), head(features + scene), strict=True))
    assert difference < 1e-3 if is_blind else difference > 1e-2


def test_attention_heads_must_divide_the_width_of_a_transformer() -> None:
    with pytest.raises(SettingsError, match=r"head.heads 3 of a transformer of width 16; allowed: divisors of 16"):
        Head("transformer", width=12, frames=4, targets=TARGETS, hidden=16, dropout=0.0, heads=3)


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 13, 16])
def test_segments_are_means_of_parts_and_of_their_changes(frames: int) -> None:
    parts = min(8, frames)
    segments, features = SegmentsOfTime(frames, parts), torch.randn(3, frames, 5)
    result = segments(features).view(3, parts, 2, 5)
    change = (features.diff(dim=1)).abs() if frames > 1 else torch.zeros_like(features)
    change = torch.cat([change[:, :1], change], dim=1)[:, -frames:]  # the first moment repeats the change of the second
    for part in range(parts):
        begin, end = part * frames // parts, -(-(part + 1) * frames // parts)
        torch.testing.assert_close(result[:, part, 0], features[:, begin:end].mean(dim=1))
        torch.testing.assert_close(result[:, part, 1], change[:, begin:end].mean(dim=1))
    still = segments(features[:, :1].expand(-1, frames, -1)).view(3, parts, 2, 5)
    assert still[:, :, 1].abs().max() == 0


def test_attention_starts_at_the_segments() -> None:
    torch.manual_seed(0)
    trunk, features = AttentionOverTime(12, 32, 8), torch.zeros(1, 32, 12)
    for part in range(8):
        features[:, 4 * part : 4 * part + 4] = part
    looked_at = trunk(features).view(8, 2, 12)[:, 0].mean(dim=1)
    assert (looked_at.diff() > 0.5).all()
    assert (looked_at - torch.arange(8)).abs().max() < 0.5


def test_features_are_standardised_and_dead_ones_stay_quiet() -> None:
    head = make("linear")
    features = torch.randn(500, 12, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.5, 20, 12) + 7
    features[:, 3] = 2.0  # a feature that never changes must not divide by zero
    head.standardise_by([features])
    seen: list[torch.Tensor] = []
    head.trunk.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    assert all(torch.isfinite(t).all() for t in head(features.view(-1, 1, 12)))
    standardised, deviation = seen[0].view(-1, 12), features.std(dim=0, unbiased=False)
    assert standardised.mean(dim=0).abs().max() < 1e-3
    torch.testing.assert_close(
        standardised.std(dim=0, unbiased=False), deviation / (deviation + QUIET * deviation.mean()), atol=1e-3, rtol=0
    )
    assert {"mean", "deviation"} <= set(head.state_dict())  # saved with the head
    head.standardise_by([torch.ones(4, 12)])  # nothing varies at all
    assert all(torch.isfinite(t).all() for t in head(torch.ones(1, 1, 12)))


def test_a_fresh_head_prefers_nothing() -> None:
    fresh = Head("attention", width=12, frames=6, targets=TARGETS, hidden=8, dropout=0.0)
    assert all((logits == 0).all() for logits in fresh(torch.randn(2, 6, 12)))


def test_dropout_works_in_training_only() -> None:
    head, features = make("linear", dropout=0.5), torch.randn(2, 6, 12)
    assert torch.equal(head(features)[0], head(features)[0])
    head.train()
    assert not torch.equal(head(features)[0], head(features)[0])
