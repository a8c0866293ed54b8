"""Tests of a composed model as a folder: transformers' LLaVA and vidrisk both read it with equal answers."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from backbones import EMBEDDED
from PIL import Image
from torch import Tensor
from vlms import Built, build_small

from vidrisk.models.encoders import default_pixel
from vidrisk.models.hub_pixels import pixel_from_preprocessor
from vidrisk.models.vlm.chat_template import pieces_from_tokenizer
from vidrisk.models.vlm.composed import Composed
from vidrisk.models.vlm.conversation import MARK
from vidrisk.models.vlm.llava_folder import save_llava
from vidrisk.models.vlm.merged_folder import write_merged
from vidrisk.runtimes.contract.errors import BundleError, SettingsError

Make = Callable[..., Path]
CLIP, SIGLIP = "clip_vision_model", "siglip_vision_model"
PLAIN = ("vlm.grid=null", "lora.last_blocks=0")
LANGUAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaForCausalLM", {}),
    "Qwen2, no spare row": ("Qwen2ForCausalLM", {"spare": False}),
    "Qwen3, untied, no spare row": ("Qwen3ForCausalLM", {"head_dim": 16, "spare": False, "tie_word_embeddings": False}),
    "Gemma 3": ("Gemma3ForCausalLM", {"head_dim": 16, "sliding_window": 512}),
    "GPT-NeoX": ("GPTNeoXForCausalLM", {"tie_word_embeddings": False}),
}


def backbone_of(built: Built) -> Composed:
    backbone = built.model.backbone
    assert isinstance(backbone, Composed)
    return backbone


def compose(tower: str | Path, language: Path, *settings: str) -> Built:
    """Return a model whose projector is standardised on its own features.

    The mean and the deviation of these features affect the result.
    """
    built = build_small(f"compose:{tower}+{language}", *PLAIN, *settings)
    with torch.inference_mode():
        built.model.standardise(lambda: [built.frames(4)])
    assert not backbone_of(built).own_projector.is_new
    return built


def photos(built: Built) -> Tensor:
    """Return two photos, ``uint8 (2, H, W, 3)``: a smooth one and one with edges."""
    height, width, _ = built.contract.pixel.frame_shape
    ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3)
    edges = np.kron(np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3)), np.ones((8, 8, 1)))
    return torch.from_numpy(np.stack([ramp, edges]).astype(np.uint8))


@torch.inference_mode()
def check_plain(built: Built, folder: Path) -> None:
    """Check that transformers' LLaVA gives the same visual tokens and the same logits from the same pixels."""
    backbone, shown = backbone_of(built), photos(built)
    llava = transformers.LlavaForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = backbone.project(backbone.vision(shown))
    pixels = backbone.vision.tower._pixels(shown)
    found = torch.stack(list(llava.get_image_features(pixels).pooler_output))
    assert (tokens[0] - tokens[1]).abs().max() > 0.01
    torch.testing.assert_close(found, tokens, rtol=0, atol=1e-4)

    count = tokens.shape[1]
    text = f"<|im_start|>user\n{'<image>' * count}\nName the defect.<|im_end|>\n"
    ids = tokenizer([text] * 2, add_special_tokens=False, return_tensors="pt")["input_ids"]
    before, after = (
        torch.tensor(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in text.split("<image>" * count)
    )
    rows = torch.cat([backbone.embed(before).expand(2, -1, -1), tokens, backbone.embed(after).expand(2, -1, -1)], dim=1)
    expected = backbone.score_tokens(
        backbone.base.language_model(inputs_embeds=rows, output_hidden_states=True).hidden_states[-1]
    )
    logits = llava(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(logits[..., : expected.shape[-1]], expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def answers(built: Built) -> list[Tensor]:
    """Return the visual tokens and the state at the token."""
    backbone = backbone_of(built)
    shown = photos(built)
    return [backbone.project(backbone.vision(shown)), built.model.features(built.frames(2))]


def reread(folder: Path, *settings: str) -> Built:
    return build_small(folder, "lora.last_blocks=0", *settings)


@pytest.mark.parametrize("language", LANGUAGE)
@pytest.mark.parametrize("tower", [CLIP, SIGLIP])
def test_transformers_and_vidrisk_read_what_was_composed(
    backbone_folder: Make, language_folder: Make, tmp_path: Path, tower: str, language: str
) -> None:
    name, sizes = LANGUAGE[language]
    built = compose(backbone_folder(tower), language_folder(name, **sizes))
    backbone = backbone_of(built)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    save_llava(backbone, tmp_path / "llava")
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert "<image>" not in backbone.tokenizer.get_vocab()
    config = json.loads((tmp_path / "llava" / "config.json").read_text())
    known, rows = len(backbone.tokenizer), len(backbone.base.get_input_embeddings().weight)
    assert config["image_token_index"] == known and config["text_config"]["vocab_size"] == max(rows, known + 1)
    assert (
        config["vision_feature_select_strategy"] == {CLIP: "default", SIGLIP: "full"}[tower]
        and config["image_seq_length"] == 16
    )
    assert not list((tmp_path / "llava").rglob("*.py"))
    check_plain(built, tmp_path / "llava")
    again = reread(tmp_path / "llava")
    assert default_pixel(str(tmp_path / "llava")) == built.contract.pixel and backbone_of(again).token == backbone.token
    for found, expected in zip(answers(again), answers(built), strict=True):
        assert torch.equal(found, expected)
    save_llava(backbone_of(again), tmp_path / "second")
    first, second = ((tmp_path / folder / "model.safetensors").read_bytes() for folder in ("llava", "second"))
    assert first == second
    for found, expected in zip(answers(reread(tmp_path / "second")), answers(built), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("tower", "settings", "reason"),
    [
        (EMBEDDED, (), "its LLaVA does not run the tower efficientnet-lite0"),
        (EMBEDDED, ("pixel.height=96", "vlm.grid=2"), "its LLaVA does not run the tower efficientnet-lite0"),
        (CLIP, ("vlm.grid=2",), "its LLaVA does not average a feature map to 2x2"),
        (SIGLIP, ("vlm.grid=3",), "its LLaVA does not average a feature map to 3x3"),
        ("dinov2", (), "its LLaVA does not run the tower dinov2"),
        ("dinov3_vit", (), "its LLaVA does not run the tower dinov3_vit"),
        ("vit", ("vlm.grid=2",), "its LLaVA does not run the tower vit"),
    ],
)
def test_what_llava_cannot_say_is_read_by_vidrisk_and_refused_by_transformers(
    backbone_folder: Make,
    language_folder: Make,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    tower: str,
    settings: tuple[str, ...],
    reason: str,
) -> None:
    built = compose(tower if tower == EMBEDDED else backbone_folder(tower), language_folder(), *settings)
    folder = tmp_path / "own"
    with torch.no_grad():  # as adapters would leave it: not the weights of its package
        next(backbone_of(built).tower.parameters()).mul_(1.1)
    with caplog.at_level(logging.WARNING):
        save_llava(backbone_of(built), folder)
    lines = [record.getMessage() for record in caplog.records if "alone cannot run" in record.getMessage()]
    assert len(lines) == 1 and reason in lines[0] and len(lines[0].splitlines()) == 1
    assert reason in (folder / "README.md").read_text()
    for load in (transformers.AutoConfig, transformers.LlavaForConditionalGeneration):
        with pytest.raises(Exception, match=r"vidrisk_llava|efficientnet"):
            load.from_pretrained(folder)
    assert default_pixel(str(folder)) == built.contract.pixel
    again = reread(folder, *(setting for setting in settings if setting.startswith("pixel")))
    for found, expected in zip(answers(again), answers(built), strict=True):
        assert torch.equal(found, expected)


def test_adapters_are_merged_into_what_is_saved(backbone_folder: Make, language_folder: Make, tmp_path: Path) -> None:
    settings = ("lora.last_blocks=null", "lora.parts=[language,vision]")
    built = compose(backbone_folder(SIGLIP), language_folder("Qwen2ForCausalLM"), *settings)
    frozen = compose(backbone_folder(SIGLIP), language_folder("Qwen2ForCausalLM"))
    with pytest.raises(
        SettingsError, match=r"a composed model with adapters; allowed: merged weights; fix: call merge\(\) first"
    ):
        save_llava(backbone_of(built), tmp_path / "llava")
    expected = answers(built)
    assert not torch.allclose(expected[1], answers(frozen)[1], atol=1e-2)
    write_merged(built.model, tmp_path / "llava")
    for found, wanted in zip(answers(reread(tmp_path / "llava")), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    check_plain(built, tmp_path / "llava")


def test_a_run_is_merged_into_a_folder(backbone_folder: Make, language_folder: Make, tmp_path: Path) -> None:
    built = compose(backbone_folder(CLIP), language_folder(), "lora.last_blocks=2")
    run = built.save(tmp_path / "run")
    write_merged(run.root, tmp_path / "llava")
    for found, wanted in zip(answers(reread(tmp_path / "llava")), answers(built), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    with pytest.raises(BundleError, match="llava"):  # it exists
        write_merged(run.root, tmp_path / "llava")


def test_the_processor_of_transformers_gives_the_same_prompt_and_nearly_the_same_pixels(
    backbone_folder: Make,
    language_folder: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    built = compose(backbone_folder(CLIP), language_folder(), "pixel.resize=squash")
    backbone = backbone_of(built)
    save_llava(backbone, tmp_path / "llava")
    shown = photos(built)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "llava")
    assert type(processor).__name__ == "LlavaProcessor"
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Name the defect."}]}]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
    inputs = processor(images=Image.fromarray(shown[1].numpy()), text=prompt, return_tensors="pt")
    torch.testing.assert_close(inputs["pixel_values"], backbone.vision.tower._pixels(shown[1:]), rtol=0, atol=1e-5)
    own = backbone.tokenizer.apply_chat_template(
        [{"role": "user", "content": f"{MARK}\nName the defect."}], tokenize=False, add_generation_prompt=True
    )
    assert prompt == own.replace(MARK, "<image>")
    image = json.loads((tmp_path / "llava" / "config.json").read_text())["image_token_index"]
    assert inputs["input_ids"][0].tolist().count(image) == 16
    Image.fromarray(shown[1].numpy()).save(tmp_path / "photo.jpg")
    (script,) = re.findall(
        r"```python\n(.*?)```", (tmp_path / "llava" / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    monkeypatch.chdir(tmp_path)
    exec(script, {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("template", [True, False])
def test_pieces_of_a_chat_are_those_of_the_language_model(
    backbone_folder: Make, language_folder: Make, tmp_path: Path, template: bool
) -> None:
    built = compose(backbone_folder(CLIP), language_folder())
    tokenizer = backbone_of(built).tokenizer
    if not template:
        tokenizer.chat_template = None
    save_llava(backbone_of(built), tmp_path / "llava")
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path / "llava")
    assert pieces_from_tokenizer(saved, "<image>") == pieces_from_tokenizer(tokenizer, None)


@pytest.mark.parametrize("rule", ["squash", "crop"])
def test_the_processor_says_what_the_contract_says(
    backbone_folder: Make, language_folder: Make, tmp_path: Path, rule: str
) -> None:
    built = compose(backbone_folder(SIGLIP), language_folder(), f"pixel.resize={rule}")
    save_llava(backbone_of(built), tmp_path / "llava")
    settings = json.loads((tmp_path / "llava" / "preprocessor_config.json").read_text())
    assert pixel_from_preprocessor(settings, {}) == built.contract.pixel


def test_what_the_processor_cannot_say_is_in_the_readme(
    backbone_folder: Make, language_folder: Make, tmp_path: Path
) -> None:
    save_llava(backbone_of(compose(backbone_folder(SIGLIP), language_folder(), "pixel.resize=pad")), tmp_path / "llava")
    said = (tmp_path / "llava" / "README.md").read_text()
    assert "images are stretched, but the contract says pad" in said and "tie_last_hidden_states" in said


def test_a_projector_that_was_trained_elsewhere_is_taken(
    backbone_folder: Make, language_folder: Make, tmp_path: Path
) -> None:
    """A projector trained elsewhere is used, although vidrisk's own projector file next to it differs."""
    built = compose(backbone_folder(CLIP), language_folder())
    save_llava(backbone_of(built), tmp_path / "llava")
    llava = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "llava")
    with torch.no_grad():
        llava.model.multi_modal_projector.linear_2.bias += 1
    llava.save_pretrained(tmp_path / "llava")
    found = reread(tmp_path / "llava")
    torch.testing.assert_close(answers(found)[0], answers(built)[0] + 1, rtol=0, atol=1e-4)


def test_a_read_projector_keeps_its_weights_unless_a_rate_is_given(
    backbone_folder: Make, language_folder: Make, tmp_path: Path
) -> None:
    save_llava(backbone_of(compose(backbone_folder(CLIP), language_folder())), tmp_path / "llava")
    built = reread(tmp_path / "llava", "lora.last_blocks=1")
    before = {key: value.clone() for key, value in backbone_of(built).own_projector.state_dict().items()}
    with torch.inference_mode():
        built.model.standardise(lambda: [built.frames(4, seed=3)])
    assert all(torch.equal(value, before[key]) for key, value in backbone_of(built).own_projector.state_dict().items())
    assert [group["name"] for group in built.model.parameter_groups(built.config.optim)] == ["lora", "token", "head"]
    built = reread(tmp_path / "llava", "lora.last_blocks=1", "optim.projector_lr=0.01")
    groups = {group["name"]: group for group in built.model.parameter_groups(built.config.optim)}
    assert groups["projector"]["lr"] == 0.01 and len(groups["projector"]["params"]) == 4
    assert built.model.has_frozen_part  # features of the tower are kept between epochs


def test_frozen_weights_may_be_held_in_bfloat16(backbone_folder: Make, language_folder: Make, tmp_path: Path) -> None:
    """Only weights of the language model are held in bfloat16; the tower and the projector stay exact."""
    built = compose(backbone_folder(CLIP), language_folder())
    save_llava(backbone_of(built), tmp_path / "llava")
    held = reread(tmp_path / "llava", "vlm.weights=bfloat16")
    backbone = backbone_of(held)
    assert {parameter.dtype for parameter in backbone.base.language_model.parameters()} == {torch.bfloat16}
    assert torch.equal(answers(held)[0], answers(built)[0])


@pytest.mark.parametrize(
    ("model_class", "sizes", "said"),
    [
        (
            "OPTForCausalLM",
            {"ffn_dim": 96, "word_embed_proj_dim": 64},
            "other layers than LLaVA expects: OPTModel has no attribute",
        ),
        (
            "PhiForCausalLM",
            {"tie_word_embeddings": False},
            "output embeddings with a bias; allowed: such as Llama, Qwen",
        ),
    ],
)
def test_a_language_model_that_llava_cannot_hold_is_refused(
    backbone_folder: Make, language_folder: Make, tmp_path: Path, model_class: str, sizes: dict[str, Any], said: str
) -> None:
    built = compose(backbone_folder(CLIP), language_folder(model_class, **sizes))
    with pytest.raises(SettingsError, match=f"{model_class} as the language model of LLaVA: it has {said}") as caught:
        save_llava(backbone_of(built), tmp_path / "llava")
    assert len(str(caught.value).splitlines()) == 1 and not (tmp_path / "llava").exists()
