"""Tests of heads behind a language model: shapes, batches, and the tokens that each head sees."""

from __future__ import annotations

import pytest
import torch

from vidrisk.models.blocks import Block
from vidrisk.models.config import HeadSettings
from vidrisk.models.vlm.act_heads import ActHead
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.errors import SettingsError

TARGETS = (Target(name="kind", labels=("a", "b")), Target(name="level", labels=("1", "2", "3"), ordered=True))
KINDS = ("auto", "linear", "mlp", "transformer", "transformer_no_vision")
WIDTH, TOKENS = 24, 10


def head_of(kind: str, **settings: object) -> ActHead:
    torch.manual_seed(0)
    head = ActHead(
        HeadSettings.model_validate({"kind": kind, "hidden": 16, "heads": 4, **settings}), width=WIDTH, targets=TARGETS
    )
    for classifier in head.head.classifiers:
        torch.nn.init.normal_(classifier.weight)
    return head.eval()


def features_of(head: ActHead, batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 1 + TOKENS * head.sees_visual, WIDTH, generator=torch.Generator().manual_seed(1)) * 3 + 1


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_a_batch_is_one_by_one(kind: str) -> None:
    head = head_of(kind)
    features = features_of(head)
    assert head.sees_visual is (kind == "transformer")
    with torch.inference_mode():
        head.standardise_by([features[:, 0]])
        whole = head(features)
        alone = [torch.cat(parts) for parts in zip(*(head(row[None]) for row in features), strict=True)]
    assert [tuple(each.shape) for each in whole] == [(3, 2), (3, 3)] and whole[0].std() > 0.1
    for one, other in zip(whole, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_off_when_judged_and_on_in_training(kind: str) -> None:
    head = head_of(kind, dropout=0.5)
    features = features_of(head)
    with torch.inference_mode():
        assert torch.equal(head(features)[0], head(features)[0])
        head.train()
        assert not torch.equal(head(features)[0], head(features)[0])


def test_a_transformer_reads_the_clips_own_tokens_and_the_control_does_not() -> None:
    head, control = head_of("transformer"), head_of("transformer_no_vision")
    features = features_of(head)
    other = features.clone()
    other[:, 5, 0] += 9
    shuffled = features[:, [0, *torch.randperm(TOKENS).add(1).tolist()]]
    with torch.inference_mode():
        assert (head(features)[0] - head(other)[0]).abs().min() > 1e-4
        torch.testing.assert_close(head(shuffled)[0], head(features)[0], rtol=1e-4, atol=1e-5)  # a set of tokens
        assert torch.equal(control(features[:, :1])[0], control(other[:, :1])[0])
    assert sum(p.numel() for p in head.parameters()) == sum(p.numel() for p in control.parameters())


def test_any_number_of_visual_tokens_and_none_of_a_neighbours() -> None:
    head = head_of("transformer")
    with torch.inference_mode():
        for tokens in (1, 4, 33):
            pair = torch.randn(2, 1 + tokens, WIDTH)
            other = torch.stack([pair[0], torch.randn(1 + tokens, WIDTH)])
            torch.testing.assert_close(head(pair)[0][0], head(other)[0][0], rtol=1e-5, atol=1e-6)


def test_attention_is_torchs_own() -> None:
    torch.manual_seed(0)
    block, tokens = Block(WIDTH, 4, 0.0).eval(), torch.randn(2, 7, WIDTH)
    reference = torch.nn.MultiheadAttention(WIDTH, 4, batch_first=True)
    with torch.inference_mode():
        reference.in_proj_weight.copy_(block.qkv.weight)
        reference.in_proj_bias.copy_(block.qkv.bias)
        reference.out_proj.load_state_dict(block.out.state_dict())
        torch.testing.assert_close(block._attend(tokens), reference(tokens, tokens, tokens)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"kind": "segments"},
            "head 'segments' behind a vision-language model; allowed: auto, linear, mlp, transformer, ",
        ),
        ({"kind": "attention"}, "head 'attention'"),
        ({"kind": "transformer", "heads": 5}, "head.heads 5 behind states of 24; allowed: divisors of 24"),
    ],
)
def test_heads_that_do_not_fit_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        ActHead(HeadSettings.model_validate(settings), width=WIDTH, targets=TARGETS)
