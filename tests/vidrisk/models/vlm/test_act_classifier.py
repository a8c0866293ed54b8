"""Tests of a training step: loss by hand, prompts by seed, groups by name, and the places of adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones import EMBEDDED
from torch import Tensor
from vlm_references import Reference
from vlms import Built, build_small, enliven

from vidrisk.models.bases import load_bases
from vidrisk.models.vlm.act_classifier import VlmClassifier
from vidrisk.runtimes.contract.errors import BundleError, SettingsError

Make = Callable[..., Any]
SIZE = {"qwen2_5_vl": ("pixel.height=56", "pixel.width=56"), "qwen3_vl": ("pixel.height=64", "pixel.width=64")}
BACKBONES = ("qwen2_5_vl", "qwen3_vl", "compose")


@pytest.fixture
def build(qwen_folder: Make, language_folder: Make) -> Callable[..., Built]:
    def make(kind: str, *assignments: str, **options: Any) -> Built:
        backbone = f"compose:{EMBEDDED}+{language_folder()}" if kind == "compose" else qwen_folder(kind)
        return build_small(backbone, *SIZE.get(kind, ()), *assignments, **options)

    return make


def names_of(model: VlmClassifier, part: str) -> list[str]:
    return [name for name, module in model.backbone.base.named_modules() if hasattr(module, part)]


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_the_loss_of_the_reply_is_transformers_own(build: Callable[..., Built], qwen_folder: Make, kind: str) -> None:
    """The loss over a batch equals that of transformers with labels of -100 outside the reply."""
    built = build(kind, "lora.last_blocks=0", "optim.projector_lr=0.001", "vlm.language_loss=0.3")
    model, frames = built.model, built.frames(2)
    row = model.backbone.embed(torch.tensor([model.backbone.token]))[0].detach()
    reference = Reference.of(qwen_folder(kind), kind, row)
    expected = []
    for clip in frames.numpy():
        inputs = reference.inputs(clip, 2.0, built.config.vlm.prompts[4])
        labels = inputs["input_ids"].clone()
        labels[:, : -model.prompts[4].reply] = -100
        asked = reference.processor.tokenizer.decode(labels[0][labels[0] >= 0])
        assert asked == built.config.vlm.prompts[4].reply.replace("{token}", "<ACT>") + "<|im_end|>\n"
        with torch.inference_mode():
            expected.append(reference.model(**inputs, labels=labels).loss)
    model.drawn = model.prompts[4]
    with torch.no_grad():
        logits, further = model.train()(frames)
        assert further is not None
        torch.testing.assert_close(further / 0.3, torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)
        plain = model.eval()(frames)
    assert plain[1] is None and logits[0].shape == plain[0][0].shape


def test_without_its_weight_there_is_no_loss_of_the_reply(build: Callable[..., Built]) -> None:
    built = build("compose", "vlm.language_loss=0")
    logits, further = built.model.train()(built.frames(1))
    assert further is None and logits[0].requires_grad


@pytest.mark.parametrize("kind", BACKBONES)
def test_a_step_answers_by_the_drawn_prompt_and_validation_by_the_fixed_one(
    build: Callable[..., Built], kind: str
) -> None:
    built = build(kind, "head.dropout=0", "vlm.fixed_prompt=2")
    model, frames = built.model, built.frames(1)
    with torch.no_grad():
        fixed = model.logits(model.features(frames))[0]
        answers = []
        for prompt in model.prompts:
            model.drawn = prompt
            answers.append(model.train()(frames)[0][0])
        assert torch.equal(model.eval()(frames)[0][0], fixed)
    torch.testing.assert_close(answers[2], fixed, rtol=1e-4, atol=1e-5)  # what follows the token changes nothing
    assert len({tuple(answer[0].tolist()) for answer in answers}) == 15


def test_prompts_are_drawn_by_a_seed_and_all_of_them(build: Callable[..., Built]) -> None:
    model = build("compose").model

    def draws(seed: int, count: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        found = []
        for _ in range(count):
            model.draw(generator)
            found.append(model.prompts.index(model.drawn))
        return found

    assert draws(3, 20) == draws(3, 20) != draws(4, 20)
    counts = np.bincount(draws(0, 1500), minlength=15)
    assert len(counts) == 15 and counts.min() > 60 and counts.max() < 140


@pytest.mark.parametrize("kind", BACKBONES)
def test_adapters_are_in_the_decoder_alone_unless_vision_is_asked_for(build: Callable[..., Built], kind: str) -> None:
    language = names_of(build(kind).model, "lora_A")
    assert language and all(
        "language_model" in name and "layers." in name and "lm_head" not in name for name in language
    )
    assert {name.rpartition(".")[2] for name in language} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    vision = names_of(build(kind, "lora.parts=[vision]").model, "lora_A")
    assert vision and not any("language_model" in name or "merger" in name for name in vision)
    assert set(names_of(build(kind, "lora.parts=[vision,language]").model, "lora_A")) == {*vision, *language}
    last = names_of(build(kind, "lora.last_blocks=1").model, "lora_A")
    assert last == [name for name in language if ".layers.2." in name]


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (
            "q_prj",
            r"lora.targets 'q_prj' matches no layer that can be adapted; allowed: q_proj.*; fix: correct the name",
        ),
        ("qkv", "lora.targets 'qkv' matches no layer"),
        ("embed_tokens", "lora.targets 'embed_tokens' matches no"),
        ("lm_head", "lora.targets 'lm_head' matches no"),
    ],
)
def test_targets_that_match_nothing_are_refused_with_near_names(
    build: Callable[..., Built], targets: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        build("qwen2_5_vl", f"lora.targets=[{targets}]")


def test_targets_choose_layers(build: Callable[..., Built]) -> None:
    found = names_of(build("qwen2_5_vl", "lora.targets=[q_proj,mlp.up_proj]").model, "lora_A")
    assert {name.rpartition(".")[2] for name in found} == {"q_proj", "up_proj"} and len(found) == 6


RATES = ("optim.lora_lr=0.1", "optim.token_lr=0.2", "optim.head_lr=0.4", "optim.weight_decay=0.5")


@pytest.mark.parametrize("kind", BACKBONES)
def test_each_group_has_its_own_rate(build: Callable[..., Built], kind: str) -> None:
    built = build(kind, *RATES, "optim.projector_lr=0.3")
    groups = {group["name"]: group for group in built.model.parameter_groups(built.config.optim)}
    assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
        "lora": (0.1, 0.0),
        "token": (0.2, 0.0),
        "projector": (0.3, 0.5),
        "head": (0.4, 0.5),
    }
    names = {id(p): name for name, p in built.model.named_parameters()}
    of = {group: [names[id(p)] for p in entry["params"]] for group, entry in groups.items()}
    assert all("lora_" in name for name in of["lora"]) and [
        name.rpartition(".trainable")[2] for name in of["token"]
    ] == ["_tokens_delta.default"]
    assert all("merger" in name or "own_projector" in name for name in of["projector"])
    assert all(name.startswith("head.") for name in of["head"])
    assert sorted(names[id(p)] for p in built.model.parameters() if p.requires_grad) == sorted(chain(*of.values()))


@pytest.mark.parametrize(
    ("kind", "rate", "groups"),
    [
        ("qwen2_5_vl", "null", ["lora", "token", "head"]),
        ("compose", "null", ["lora", "token", "projector", "head"]),
        ("compose", "0", ["lora", "token", "head"]),
        ("qwen3_vl", "0", ["lora", "token", "head"]),
    ],
)
def test_a_projector_is_trained_where_it_is_new_unless_told_otherwise(
    build: Callable[..., Built], kind: str, rate: str, groups: list[str]
) -> None:
    built = build(kind, f"optim.projector_lr={rate}")
    assert [group["name"] for group in built.model.parameter_groups(built.config.optim)] == groups
    assert any(p.requires_grad for p in built.model.backbone.projector.parameters()) is ("projector" in groups)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("autocast", [False, True])
def test_what_is_trained_on_weights_in_bfloat16_is_in_single_precision(
    build: Callable[..., Built], kind: str, autocast: bool
) -> None:
    """Trained parameters are in float32, because bfloat16 cannot hold steps as small as these."""
    built = build(kind, "vlm.weights=bfloat16", "optim.projector_lr=1e-6", "lora.parts=[language,vision]")
    model, optim = built.model.train(), built.config.optim
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items() if "merger" in name}
    assert {p.dtype for p in trained.values()} == {torch.float32} and len(before) >= 5
    assert {p.dtype for name, p in model.named_parameters() if name not in trained} == {torch.bfloat16}
    optimizer = torch.optim.AdamW(model.parameter_groups(optim))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits, further = model(built.frames(2))
    (logits[0].logsumexp(1).sum() + further).backward()
    optimizer.step()
    for name, value in before.items():
        assert (trained[name] != value).any() and (trained[name] - value).abs().max() < 1e-4, name


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_what_is_exported_is_merged_in_single_precision(build: Callable[..., Built], kind: str, tmp_path: Path) -> None:
    built = build(kind, "vlm.weights=bfloat16", "optim.projector_lr=1e-6", "lora.parts=[language,vision]")
    loaded, frames = built.save(tmp_path / "run").load_classifier(), built.frames(2)
    assert isinstance(loaded, VlmClassifier) and {p.dtype for p in loaded.parameters()} == {torch.float32}
    for ours, theirs in zip(
        loaded.backbone.projector.parameters(), built.model.backbone.projector.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
    with torch.inference_mode():
        held, apart = built.model.features(frames), loaded.features(frames)
        loaded.merge()
        torch.testing.assert_close(loaded.features(frames), apart, rtol=0, atol=1e-4)
    assert (held - apart).abs().mean() < 0.05 * apart.abs().mean() and apart.std() > 0.1


def test_a_projector_that_a_start_trained_is_not_rounded(build: Callable[..., Built], tmp_path: Path) -> None:
    built = build("qwen3_vl", "vlm.weights=bfloat16", "optim.projector_lr=1e-6")
    with torch.no_grad():
        for parameter in built.model.backbone.projector.parameters():
            parameter.mul_(1.001)  # which bfloat16 cannot hold
    built.save(tmp_path / "run")
    fresh = build("qwen3_vl", "vlm.weights=bfloat16", "lora.last_blocks=0").model
    load_bases(fresh, [tmp_path / "run"])
    for ours, theirs in zip(
        fresh.backbone.projector.parameters(), built.model.backbone.projector.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
    with torch.inference_mode():
        found, expected = fresh.features(built.frames(2)), built.model.features(built.frames(2))
    assert (found - expected).abs().mean() < 0.05 * expected.abs().mean()  # adapters are rounded: three digits


def test_a_damaged_prompt_and_one_of_another_tokenizer_are_told_apart(
    build: Callable[..., Built], tmp_path: Path
) -> None:
    run = build("compose", "lora.last_blocks=0").save(tmp_path / "run")
    path = run.root / "prompt.json"
    whole = json.loads(path.read_text())
    run.load_classifier()
    damaged, foreign = (
        "prompt.json is damaged:",
        "the tokenizer of the backbone gives a different prompt from the one in .*; fix: use the",
    )
    for content, said in (
        ('{"token":', f"{damaged} Expecting value"),
        ("[1, 2]", f"{damaged} Input should be"),
        (json.dumps(whole | {"ids": None}), f"{damaged} ids Input should be a valid"),
        (json.dumps({"ids": [1]}), f"{damaged} token Field required"),
        (json.dumps(whole | {"ids": [*whole["ids"][:-1], 3]}), foreign),
        (json.dumps(whole | {"token_id": 3}), foreign),
    ):
        path.write_text(content)
        with pytest.raises(BundleError, match=said) as caught:
            run.load_classifier()
        assert len(str(caught.value).splitlines()) == 1
    path.unlink()
    with pytest.raises(BundleError, match=r"prompt\.json cannot be read: .*No such file"):
        run.load_classifier()


def test_a_token_without_a_rate_keeps_its_row(build: Callable[..., Built]) -> None:
    built = build("compose", "optim.token_lr=0")
    assert [group["name"] for group in built.model.parameter_groups(built.config.optim)] == [
        "lora",
        "projector",
        "head",
    ]


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("lora.last_blocks=0", "optim.projector_lr=0"),
        ("lora.parts=[vision]",),
        ("head.kind=transformer", "optim.projector_lr=0.001"),
    ],
)
def test_what_is_kept_between_epochs_gives_the_same_features(
    build: Callable[..., Built], kind: str, settings: tuple[str, ...]
) -> None:
    built = build(kind, *settings)
    model, frames = built.model, built.frames(2)
    with torch.inference_mode():
        kept = model.lower(frames)
        assert (kept.dtype == torch.uint8) is not model.has_frozen_part
        torch.testing.assert_close(model.features(kept), model.features(frames), rtol=1e-5, atol=1e-5)
    assert model.is_probe is ("optim.projector_lr=0" in settings)
    assert model.has_frozen_part is not (
        settings[:1] == ("lora.parts=[vision]",) or (kind != "compose" and len(settings) == 2 and not model.is_probe)
    )


def gradients(built: Built, frames: Tensor) -> dict[str, Tensor]:
    built.model.zero_grad()
    logits, further = built.model(frames)
    (logits[0].logsumexp(1).sum() + (further or 0)).backward()
    return {name: p.grad.clone() for name, p in built.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", BACKBONES)
def test_gradients_are_the_same_with_checkpointing(build: Callable[..., Built], kind: str) -> None:
    built = build(kind, "head.dropout=0", "lora.parts=[language,vision]", "optim.projector_lr=0.001")
    built.model.train()
    plain = gradients(built, built.frames(2))
    own = "own_projector" if kind == "compose" else "merger"
    assert all(any(part in name for name in plain) for part in ("lora_A", "trainable_tokens_delta", "head.", own))
    calls: list[str] = []
    built.model.backbone.decoder.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append("language"))
    if kind != "compose":
        built.model.backbone.tower.blocks[0].mlp.register_forward_pre_hook(lambda *_: calls.append("vision"))
    built.model.checkpoint_gradients()
    again = gradients(built, built.frames(2))
    assert (
        sorted(calls) == ["language"] * 2 + ["vision"] * (2 if kind != "compose" else 0)
        and plain.keys() == again.keys()
    )
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", BACKBONES)
def test_a_batch_is_one_by_one_and_no_clip_sees_another(build: Callable[..., Built], kind: str) -> None:
    built = build(kind, "head.kind=transformer")
    model, frames = built.model, built.frames(3)
    with torch.inference_mode():
        whole = model.logits(model.features(frames))[0]
        alone = torch.cat([model.logits(model.features(clip[None]))[0] for clip in frames])
    assert whole.std() > 0.01
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)


def test_dropout_of_adapters_and_head_is_off_when_judged(build: Callable[..., Built]) -> None:
    built = build("compose", "lora.dropout=0.5", "head.dropout=0.5")
    with torch.no_grad():
        assert torch.equal(*(built.model.eval()(built.frames(1))[0][0] for _ in range(2)))
        assert not torch.equal(*(built.model.train()(built.frames(1))[0][0] for _ in range(2)))


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ('[{question: "Is it <ACT>?", reply: "{token}"}]', "holds the model's token 2 times, 1 of them in its reply"),
        ('[{question: "What?", reply: "{token} or <ACT>"}]', "holds the model's token 2 times, 2 of them in its reply"),
    ],
)
@pytest.mark.parametrize("kind", BACKBONES)
def test_the_token_is_once_in_a_prompt_or_the_prompt_is_refused(
    build: Callable[..., Built], kind: str, prompts: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=f"{said}; allowed: once, in the reply"):
        build(kind, f"vlm.prompts={prompts}")


@pytest.mark.parametrize("kind", BACKBONES)
def test_a_reply_that_would_be_cut_off_is_refused(build: Callable[..., Built], kind: str) -> None:
    length = max(prompt.layout.length for prompt in build(kind).model.prompts)
    build(kind, f"vlm.max_tokens={length}")
    with pytest.raises(
        SettingsError, match=rf"takes {length} tokens, \d+ of them visual: the model's token would be cut off"
    ):
        build(kind, f"vlm.max_tokens={length - 1}")


def test_a_fixed_prompt_that_is_not_there_is_refused(build: Callable[..., Built]) -> None:
    with pytest.raises(SettingsError, match=r"vlm\.fixed_prompt 15; allowed: 0 to 14"):
        build("compose", "vlm.fixed_prompt=15")


@pytest.mark.parametrize("token", ["<RISK>", "<|cls|>"])
def test_the_token_may_be_called_otherwise(build: Callable[..., Built], token: str) -> None:
    built = build("compose", f'vlm.token="{token}"')
    fixed = built.model.fixed
    assert built.model.backbone.tokenizer.convert_ids_to_tokens(int(fixed.layout.ids[fixed.place])) == token


def test_fresh_adapters_change_nothing(build: Callable[..., Built]) -> None:
    built, plain = build("qwen3_vl"), build("qwen3_vl", "lora.last_blocks=0")
    with torch.no_grad():
        for name, parameter in built.model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
            elif "trainable_tokens_delta" in name:
                parameter.copy_(plain.model.backbone.embed(torch.tensor([plain.model.backbone.token])))
        torch.testing.assert_close(
            built.model.features(built.frames(1)), plain.model.features(built.frames(1)), rtol=0, atol=1e-6
        )
        enliven(built.model)
        assert (built.model.features(built.frames(1)) - plain.model.features(built.frames(1))).abs().max() > 0.01
