"""Tests of LoRA: it adapts the projections of attention and MLP, and is restored unchanged from disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from backbones import BACKBONES, WINDOW
from peft import LoraConfig
from torch import nn

from vidrisk.models import Pool
from vidrisk.models.config import LoraSettings
from vidrisk.models.encoders import build_encoder
from vidrisk.models.families.projections import projection_names
from vidrisk.models.lora import add_lora, attach_lora, load_adapter, save_adapter
from vidrisk.runtimes.contract.errors import BundleError, SettingsError

Make = Callable[..., Any]
SIDE = {"height": 64, "width": 64}
# Attention and MLP of one layer, by the last part of their names; the SigLIP tower also ends in a pooling head with an
# MLP.
PER_LAYER = {
    "clip_vision_model": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    "siglip_vision_model": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    "dinov2": {"q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"},
    "dinov3_vit": {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"},
    "timesformer": {"qkv", "dense", "temporal_dense"},
    "videomae": {"query", "key", "value", "dense"},
    "vit": {"q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"},
    "vivit": {"q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"},
    "vjepa2": {"query", "key", "value", "proj", "fc1", "fc2"},
}
POOLING_HEAD = {"head.mlp.fc1", "head.mlp.fc2"}


def in_layers(names: list[str]) -> list[str]:
    return [name for name in names if name.removeprefix("vision_model.") not in POOLING_HEAD]


@pytest.mark.parametrize("family", list(PER_LAYER))
def test_projections_are_attention_and_mlp(backbone_folder: Make, family: str) -> None:
    backbone = build_encoder(
        str(backbone_folder(family)), frames=WINDOW if BACKBONES[family].sees_windows else 1
    ).backbone
    names, in_layer = projection_names(backbone), BACKBONES[family].lora
    layers = in_layers(names)
    assert {name.rpartition(".")[2] for name in layers} == PER_LAYER[family]
    assert len(layers) == 3 * in_layer
    assert len(names) - len(layers) == (2 if family == "siglip_vision_model" else 0)
    assert not any("embed" in name or "norm" in name for name in names)
    last = projection_names(backbone, last_blocks=1)
    assert len(in_layers(last)) == in_layer
    assert last == names[-len(last) :]
    assert len(in_layers(projection_names(backbone, last_blocks=2))) == 2 * in_layer
    assert projection_names(backbone, last_blocks=99) == names


def test_nothing_left_to_adapt(backbone_folder: Make) -> None:
    with pytest.raises(
        SettingsError, match="LoRA finds no projection to adapt in ViTModel; allowed: a CNN, or a transformer"
    ):
        projection_names(build_encoder(str(backbone_folder("vit"))).backbone, last_blocks=0)
    with pytest.raises(SettingsError, match="no projection"):
        projection_names(nn.Conv2d(3, 3, 3))


@pytest.mark.parametrize(("pool", "in_head"), [("pooler", 2), ("mean", 0), ("cls", 0)])
def test_a_pooling_head_is_adapted_where_it_is_read(backbone_folder: Make, pool: Pool, in_head: int) -> None:
    names = projection_names(build_encoder(str(backbone_folder("siglip_vision_model")), pool=pool).backbone)
    assert len(names) - len(in_layers(names)) == in_head


def test_projections_of_the_cnn_are_its_pointwise_convolutions() -> None:
    backbone = build_encoder("efficientnet-lite0", pixel=SIDE).backbone
    names = projection_names(backbone)
    assert all(backbone.get_submodule(name).kernel_size == (1, 1) for name in names)
    assert len(names) == 15 + 16 + 1  # expand in all blocks but the first, project, top
    assert projection_names(backbone, last_blocks=0) == ["top.0"]
    assert {name.split(".")[1] for name in projection_names(backbone, last_blocks=2)[:-1]} == {"14", "15"}


@pytest.mark.parametrize("family", ["siglip_vision_model", "efficientnet-lite0"])
def test_an_adapter_comes_back_as_it_was(
    adapted_encoder: Make, backbone_folder: Make, clips: Make, tmp_path: Path, family: str
) -> None:
    adapted = adapted_encoder(family)
    save_adapter(adapted.backbone, tmp_path / "adapter")
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    fresh = (
        build_encoder(family, pixel=SIDE)
        if family == "efficientnet-lite0"
        else build_encoder(str(backbone_folder(family)))
    )
    frames = torch.from_numpy(clips(3)[:, 0])
    with torch.inference_mode():
        plain = fresh(frames)
        fresh.backbone = load_adapter(fresh.backbone, tmp_path / "adapter")
        loaded, expected = fresh.eval()(frames), adapted(frames)
    assert (plain - expected).abs().max() > 0.01
    torch.testing.assert_close(loaded, expected)
    assert not any(p.requires_grad for p in fresh.parameters())


def test_a_loaded_adapter_can_be_trained_on(adapted_encoder: Make, backbone_folder: Make, tmp_path: Path) -> None:
    save_adapter(adapted_encoder("vit").backbone, tmp_path)
    fresh = build_encoder(str(backbone_folder("vit")))
    fresh.backbone = load_adapter(fresh.backbone, tmp_path, trainable=True)
    assert {name for name, p in fresh.named_parameters() if p.requires_grad} == {
        n for n, _ in fresh.named_parameters() if "lora_" in n
    }


def test_a_new_adapter_changes_nothing_and_trains_little(backbone_folder: Make, clips: Make) -> None:
    encoder = build_encoder(str(backbone_folder("vit")))
    frames = torch.from_numpy(clips(2)[:, 0])
    with torch.inference_mode():
        before = encoder(frames)
        add_lora(encoder, LoraSettings(rank=2, alpha=4, last_blocks=None))
        torch.testing.assert_close(encoder(frames), before)
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    assert trained == 3 * 2 * (4 * (64 + 64) + 2 * (64 + 128))


def refused(family: Any, folder: Path, said: str) -> None:
    with pytest.raises(BundleError, match=said) as caught:
        load_adapter(family().backbone, folder)
    assert len(str(caught.value).splitlines()) == 1


def test_adapters_that_do_not_fit(adapted_encoder: Make, backbone_folder: Make, tmp_path: Path) -> None:
    save_adapter(adapted_encoder("vit").backbone, tmp_path)

    def vit(**changed: int) -> Callable[[], Any]:
        import transformers

        def make() -> Any:
            encoder = build_encoder(str(backbone_folder("vit")))
            encoder.backbone = transformers.ViTModel(
                transformers.ViTConfig(**{**encoder.backbone.config.to_dict(), **changed})
            )
            return encoder

        return make

    refused(
        lambda: build_encoder("efficientnet-lite0", pixel=SIDE),
        tmp_path,
        "does not fit the backbone.*fix: use the backbone",
    )
    refused(lambda: build_encoder(str(backbone_folder("clip_vision_model"))), tmp_path, "does not fit")
    refused(vit(hidden_size=32), tmp_path, "does not fit")
    refused(vit(num_hidden_layers=2), tmp_path, "does not fit")  # a layer of the adapter would be dropped in silence


def test_damaged_adapters(adapted_encoder: Make, backbone_folder: Make, tmp_path: Path) -> None:
    def make() -> Any:
        return build_encoder(str(backbone_folder("vit")))

    refused(make, tmp_path / "absent", "holds no adapter")
    save_adapter(adapted_encoder("vit").backbone, tmp_path)
    weights, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(make, tmp_path, "does not fit|damaged")
    weights.write_bytes(whole)
    described = config.read_text()
    for content in ("", "{", "{}", json.dumps(json.loads(described) | {"peft_type": "SNEAKY"})):
        config.write_text(content)
        refused(make, tmp_path, "does not fit|damaged")
    config.unlink()
    refused(make, tmp_path, "does not fit|holds no adapter")
    config.write_text(described)
    (tmp_path / "adapter_model.bin").write_bytes(whole)
    weights.unlink()
    refused(make, tmp_path, "holds no adapter")  # safetensors only


HOSTILE = {
    "a module to import": {"megatron_config": {"a": 1}, "megatron_core": "evil_module"},
    "a core to import": {"megatron_core": "evil_module"},
    "a class to import": {"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil_module"}},
    "a class of vidrisks": {"auto_mapping": {"base_model_class": "Evil", "parent_library": "vidrisk_evil"}},
    "prompt tuning": {
        "peft_type": "PROMPT_TUNING",
        "num_virtual_tokens": 4,
        "tokenizer_name_or_path": "evil/tokenizer",
    },
    "xlora": {"peft_type": "XLORA", "adapters": {"a": "evil/adapter"}},
    "adaption prompt": {"peft_type": "ADAPTION_PROMPT", "adapter_layers": 1, "adapter_len": 2},
    "no type": {"peft_type": None},
    "runtime settings": {"runtime_config": {"ephemeral_gpu_offload": True}},
    "initial weights": {"init_lora_weights": "pissa"},
    "other layers too": {"modules_to_save": ["layernorm"]},
    "other ranks": {"rank_pattern": {"query": 99}},
    "another start": {"use_bdlora": True},
    "rows of another token than a number": {"trainable_token_indices": ["evil"]},
    "the unknown": {"of_a_later_peft": {"a": 1}},
    "a slow pattern": {"target_modules": "(a+)+$"},
    "no rank": {"r": 0},
    "a rank that takes all memory": {"r": 10**9},
    "not a number": {"lora_alpha": float("nan")},
    "no layers": {"target_modules": []},
    "a list": None,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_strangers_adapter_chooses_no_code(
    case: str, adapted_encoder: Make, backbone_folder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'was here')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    save_adapter(adapted_encoder("vit").backbone, tmp_path / "adapter")
    config, change = tmp_path / "adapter" / "adapter_config.json", HOSTILE[case]
    config.write_text(json.dumps([] if change is None else json.loads(config.read_text()) | change))
    refused(
        lambda: build_encoder(str(backbone_folder("vit"))),
        tmp_path / "adapter",
        r"adapter_config\.json is damaged or foreign: .*; allowed: a LoRA adapter as `vidrisk train` writes it; fix: ",
    )
    assert not (tmp_path / "was here").exists()


def test_an_adapter_of_an_older_or_later_peft_is_read(
    adapted_encoder: Make, backbone_folder: Make, tmp_path: Path
) -> None:
    """An adapter with fewer or more keys, as other PEFT versions write, is read if the keys change nothing."""
    save_adapter(adapted_encoder("vit").backbone, tmp_path)
    config = tmp_path / "adapter_config.json"
    described = json.loads(config.read_text())
    for content in (
        {"peft_type": "LORA", **{key: described[key] for key in ("r", "lora_alpha", "lora_dropout", "target_modules")}},
        described | {"of_a_later_peft": None, "and_another": False, "peft_version": "99.0"},
    ):
        config.write_text(json.dumps(content))
        load_adapter(build_encoder(str(backbone_folder("vit"))).backbone, tmp_path)


def test_a_module_is_adapted_by_its_path_and_not_by_the_end_of_it() -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(11))

    class Whole(Part):
        def __init__(self) -> None:
            super().__init__()
            self.vision = Part()

    adapted = attach_lora(Whole(), LoraConfig(r=2), ["layers.0", "layers.1"])
    assert {
        name.removeprefix("base_model.model.") for name, part in adapted.named_modules() if hasattr(part, "lora_A")
    } == {"layers.0", "layers.1"}
    assert adapted.peft_config["default"].target_modules == {"layers.0", "layers.1"}
