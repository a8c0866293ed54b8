"""A composed model equals a plain chain of a tower's map, an MLP and a causal language model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from backbones import BACKBONES, EMBEDDED
from torch import Tensor
from vlms import Built, build_small

from vidrisk.models.families.efficientnet import load_efficientnet_lite
from vidrisk.models.run import Run
from vidrisk.models.vlm.composed import Projector
from vidrisk.runtimes.contract.errors import SettingsError

Make = Callable[..., Path]
TOWERS = {"clip_vision_model": 1, "siglip_vision_model": 0, "dinov2": 1, "dinov3_vit": 1, "vit": 1}  # class tokens
LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {},
    "Qwen2ForCausalLM": {},
    "Qwen3ForCausalLM": {"head_dim": 16},
    "GemmaForCausalLM": {"head_dim": 16},
    "Gemma3ForCausalLM": {"head_dim": 16, "sliding_window": 512},
    "MistralForCausalLM": {"sliding_window": 512},
    "MixtralForCausalLM": {},
    "GPTNeoXForCausalLM": {},
    "OPTForCausalLM": {"ffn_dim": 96, "word_embed_proj_dim": 64},
}
PLAIN = "lora.last_blocks=0"


def normalised(built: Built, frames: Tensor) -> Tensor:
    pixel = built.contract.pixel
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (pixel.mean, pixel.std))
    return (frames.flatten(0, 1).permute(0, 3, 1, 2) / 255 - mean) / std


def plain_state(built: Built, feature_map: Tensor, language: Path) -> Tensor:
    """Return the state at the token, computed by transformers' model as loaded from its folder.

    Args:
        feature_map: features of the tower, ``(B · T, W, h, w)``.
    """
    backbone, layout = built.model.backbone, built.model.fixed.layout
    model = transformers.AutoModelForCausalLM.from_pretrained(language).eval()
    grid = built.config.vlm.grid
    tokens = feature_map if grid is None else torch.nn.functional.adaptive_avg_pool2d(feature_map, grid)
    tokens = backbone.own_projector(tokens.flatten(2).transpose(1, 2)).reshape(
        -1, layout.is_visual.sum(), backbone.width
    )
    text = model.get_input_embeddings()(torch.tensor(layout.text[:-1]))
    text = torch.cat([text, backbone.embed(torch.tensor([backbone.token]))])
    before = int(layout.is_visual.argmax())
    rows = torch.stack([torch.cat([text[:before], own, text[before:]]) for own in tokens])
    return model(inputs_embeds=rows, output_hidden_states=True).hidden_states[-1][:, -1]


@torch.inference_mode()
def check(built: Built, feature_map: Tensor, frames: Tensor, language: Path) -> None:
    expected = plain_state(built, feature_map, language)
    found = built.model.features(frames)[:, 0]
    assert (expected[0] - expected[1]).abs().max() > 1e-3  # the frames matter
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-4)


def test_a_head_that_pools_by_attention_is_left_out(backbone_folder: Make, language_folder: Make) -> None:
    """A tower's head that pools by attention gets no adapters, because nothing reads its output.

    Its adapters would have no gradient, which training in several processes does not allow.
    """
    built = build_small(
        f"compose:{backbone_folder('siglip_vision_model')}+{language_folder()}",
        "lora.parts=[language,vision]",
        "lora.last_blocks=null",
    )
    logits, _ = built.model.train()(built.frames(2))
    sum(output.square().sum() for output in logits).backward()
    adapted = [name for name, parameter in built.model.named_parameters() if "lora_" in name]
    assert any("tower" in name for name in adapted)
    assert [
        name for name, parameter in built.model.named_parameters() if "lora_" in name and parameter.grad is None
    ] == []


@pytest.mark.parametrize("grid", ["2", "null"])
@pytest.mark.parametrize("tower", TOWERS)
def test_any_tower_is_read_without_its_class_token(
    backbone_folder: Make, language_folder: Make, tower: str, grid: str
) -> None:
    folder, language = backbone_folder(tower), language_folder()
    built = build_small(f"compose:{folder}+{language}", PLAIN, "vlm.grid=" + grid)
    frames = built.frames(2)
    model = getattr(transformers, BACKBONES[tower].model_class).from_pretrained(folder).eval()
    with torch.inference_mode():
        tokens = model(normalised(built, frames)).last_hidden_state
    assert tokens.shape[1] == 16 + TOWERS[tower]
    check(built, tokens[:, TOWERS[tower] :].transpose(1, 2).unflatten(2, (4, 4)), frames, language)


@pytest.mark.parametrize("size", [("64", "64", "2"), ("96", "64", "2"), ("96", "64", "null")])
def test_the_embedded_tower_may_see_frames_of_any_shape(language_folder: Make, size: tuple[str, str, str]) -> None:
    height, width, grid = size
    language = language_folder()
    size = (f"pixel.height={height}", f"pixel.width={width}")
    built = build_small(f"compose:{EMBEDDED}+{language}", PLAIN, *size, f"vlm.grid={grid}")
    frames = built.frames(2)
    with torch.inference_mode():
        fine = load_efficientnet_lite(built.contract.pixel)(normalised(built, frames))[-1]
    assert fine.shape[2:] == (int(height) // 32, int(width) // 32)
    check(built, fine, frames, language)


@pytest.mark.parametrize("model_class", LANGUAGE_MODELS)
def test_any_causal_language_model_goes_through_the_same_door(language_folder: Make, model_class: str) -> None:
    language = language_folder(model_class, **LANGUAGE_MODELS[model_class])
    built = build_small(f"compose:{EMBEDDED}+{language}", PLAIN)
    frames = built.frames(2)
    with torch.inference_mode():
        fine = load_efficientnet_lite(built.contract.pixel)(normalised(built, frames))[-1]
    check(built, fine, frames, language)


@pytest.mark.parametrize("question_first", ["true", "false"])
@pytest.mark.parametrize("model_class", LANGUAGE_MODELS)
def test_the_stage_that_is_exported_computes_what_is_trained(
    language_folder: Make, model_class: str, question_first: str
) -> None:
    """The exported text stage, with its adapters, computes the same states as the trained model.

    Its mask, its positions, and the keys and values of its first tokens are passed as constants.
    """
    built = build_small(
        f"compose:{EMBEDDED}+{language_folder(model_class, **LANGUAGE_MODELS[model_class])}",
        f"vlm.question_first={question_first}",
    )
    frames, model = built.frames(2), built.model
    assert any("lora_B" in name for name, _ in model.named_parameters())
    with torch.inference_mode():
        vision, text, _ = model.stages(built.contract)
        constants = [torch.from_numpy(text.constants[name]) for name in text.stage.constants]
        assert len(constants[0]) + constants[2].shape[3] == len(model.fixed.layout.text)
        exported = text.module(vision.module(frames.flatten(0, 1)).unflatten(0, (2, 4)), *constants)
        torch.testing.assert_close(exported, model.features(frames)[:, 0], rtol=1e-4, atol=1e-4)


SHORT = (
    r"a prompt of \d+ tokens, visual ones included, exceeds the language model's max_position_embeddings of 32; "
    r"allowed: 32 "
)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "BloomForCausalLM": ({"n_layer": 3, "n_head": 4}, "BloomForCausalLM as the language model of a classifier: "),
    "MambaForCausalLM": ({}, "MambaForCausalLM as the language model of a classifier: "),
    "BertLMHeadModel": ({}, "its tokens see later ones; allowed: causal ones"),
    "GPT2LMHeadModel": ({"n_embd": 64, "n_layer": 3, "n_head": 4}, "LoRA finds no projection to adapt in GPT2Model"),
    "MistralForCausalLM": (
        {"sliding_window": 32},
        r"a prompt of \d+ tokens, .*model's sliding_window of 32; allowed: 32 ",
    ),
    "LlamaForCausalLM": ({"max_position_embeddings": 32}, SHORT),
    "T5ForConditionalGeneration": (
        {"d_model": 64, "num_layers": 2, "d_kv": 16, "num_heads": 4},
        "cannot be loaded: Unrecognized",
    ),
}


@pytest.mark.parametrize("model_class", REFUSED)
def test_a_language_model_that_cannot_work_is_refused_in_one_line(language_folder: Make, model_class: str) -> None:
    sizes, said = REFUSED[model_class]
    with pytest.raises(SettingsError, match=said) as caught:
        build_small(f"compose:{EMBEDDED}+{language_folder(model_class, **sizes)}")
    assert len(str(caught.value).splitlines()) == 1


def test_a_language_model_that_cannot_be_adapted_may_stay_frozen(language_folder: Make) -> None:
    built = build_small(
        f"compose:{EMBEDDED}+{language_folder('GPT2LMHeadModel', **REFUSED['GPT2LMHeadModel'][0])}", PLAIN
    )
    assert {
        name.partition(".")[2].partition(".")[0]
        for name, p in built.model.backbone.named_parameters(prefix="x")
        if p.requires_grad
    } == {"own_projector"}


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        ("compose:{tower}", "allowed: compose:TOWER.LLM; fix: name an encoder and a causal language model"),
        ("compose:{tower}+{language}+{language}", "allowed: compose:TOWER.LLM"),
        ("compose:{tower}+{tower}", "cannot be loaded: Unrecognized"),
        ("compose:{language}+{language}", "language model and is not an encoder|cannot|lacks|does not encode"),
        (
            "compose:{windows}+{language}",
            "as the tower of a composed model; allowed: encoders that see one frame at a time",
        ),
        ("compose:absent+{language}", "unknown backbone 'absent'"),
        ("compose:{tower}+absent", "backbone 'absent' cannot be loaded"),
    ],
)
def test_names_that_compose_nothing_are_refused(
    backbone_folder: Make, language_folder: Make, backbone: str, said: str
) -> None:
    names = {"tower": backbone_folder("vit"), "language": language_folder(), "windows": backbone_folder("videomae")}
    with pytest.raises(SettingsError, match=said) as caught:
        build_small(backbone.format(**names))
    assert len(str(caught.value).splitlines()) == 1


def test_a_tower_without_a_map_of_patches_is_refused(language_folder: Make, tmp_path: Path) -> None:
    """Swin is refused as a tower: its last layers have merged the patches of its configuration."""
    config = transformers.SwinConfig(image_size=64, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4)
    transformers.SwinModel(config).save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match=r"swin as the tower of a composed model: 64 places, 16x16 expected; "):
        build_small(f"compose:{tmp_path}+{language_folder()}", PLAIN)


def test_a_grid_finer_than_the_map_is_refused(language_folder: Make) -> None:
    with pytest.raises(SettingsError, match=r"vlm.grid 3 of a feature map of 2x2; allowed: 1 to 2, or null"):
        build_small(f"compose:{EMBEDDED}+{language_folder()}", PLAIN, "vlm.grid=3")


def test_visual_tokens_begin_as_large_as_words(language_folder: Make) -> None:
    """New visual tokens have the same root mean square as word embeddings.

    Gemma 3 multiplies its embeddings by the square root of its width.
    """
    for model_class in ("LlamaForCausalLM", "Gemma3ForCausalLM"):
        built = build_small(f"compose:{EMBEDDED}+{language_folder(model_class, **LANGUAGE_MODELS[model_class])}", PLAIN)
        frames, backbone = built.frames(6), built.model.backbone
        with torch.inference_mode():
            built.model.standardise(lambda frames=frames: [frames])
            seen = backbone.encode_frames(frames)
            words, tokens = backbone.embed(torch.arange(400)), backbone.project(seen)
        standard = (seen - backbone.own_projector.mean) / backbone.own_projector.deviation
        assert standard.flatten(0, 2).mean(0).abs().max() < 1e-4 and 0.5 < standard.std() <= 1
        assert float(tokens.square().mean().sqrt() / words.square().mean().sqrt()) == pytest.approx(1, rel=0.05)


def test_a_trained_projector_is_not_standardised_again(language_folder: Make) -> None:
    built = build_small(f"compose:{EMBEDDED}+{language_folder()}", PLAIN)
    projector = built.model.backbone.own_projector
    assert isinstance(projector, Projector) and projector.is_new
    with torch.inference_mode():
        built.model.standardise(lambda: [built.frames(4)])
    once = {name: value.clone() for name, value in projector.state_dict().items()}
    assert not projector.is_new
    with torch.inference_mode():
        built.model.standardise(lambda: [built.frames(4, seed=1)])
    assert all(torch.equal(value, once[name]) for name, value in projector.state_dict().items())


def test_without_a_chat_template_question_and_reply_stand_alone(language_folder: Make, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(language_folder(), tmp_path / "bare"))
    (folder / "chat_template.jinja").unlink()
    built = build_small(f"compose:{EMBEDDED}+{folder}", PLAIN)
    text = built.model.backbone.tokenizer.decode(built.model.fixed.layout.text)
    assert text == "\nWhich action does this video show?\nThe action is <ACT>"
    with torch.inference_mode():  # no text in front of the visual tokens, and no keys and values
        frames, (vision, stage, _) = built.frames(2), built.model.stages(built.contract)
        assert stage.stage.constants == ("prompt", "positions")
        constants = [torch.from_numpy(values) for values in stage.constants.values()]
        exported = stage.module(vision.module(frames.flatten(0, 1)).unflatten(0, (2, 4)), *constants)
        torch.testing.assert_close(exported, built.model.features(frames)[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "template", ["{{ messages[0].role }}", "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}"]
)
def test_a_template_that_drops_or_repeats_the_question_is_refused(
    language_folder: Make, tmp_path: Path, template: str
) -> None:
    import shutil

    folder = Path(shutil.copytree(language_folder(), tmp_path / "odd"))
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(SettingsError, match=r"gives the question [02] times; allowed: once, unchanged"):
        build_small(f"compose:{EMBEDDED}+{folder}", PLAIN)


def test_a_name_with_folders_is_stored_whole(
    backbone_folder: Make, language_folder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative name is stored as a full path, so that a run can be opened from another working directory."""
    tower, language = backbone_folder("vit"), language_folder()
    monkeypatch.chdir(language.parent)
    built = build_small(f"compose:{tower}+{language.name}", PLAIN)
    built.save(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert Run.open(tmp_path / "run").config.backbone == f"compose:{tower}+{language}"
    Run.open(tmp_path / "run").load_classifier()
