"""Tests of LLaVA checkpoints in their published form, and of folders with missing or foreign parts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from backbones import BACKBONES, EMBEDDED
from safetensors.torch import load, load_file, save_file
from vlms import ROWS, WIDTH, build_small, save_llava_hf

from vidrisk.models.encoders import build_encoder, default_pixel
from vidrisk.models.vlm.composed import Composed
from vidrisk.models.vlm.llava_folder import save_llava
from vidrisk.models.vlm.merged_folder import write_merged
from vidrisk.runtimes.contract.errors import BundleError, SettingsError, VidriskError

Make = Callable[..., Path]
CLIP, SIGLIP = "clip_vision_model", "siglip_vision_model"


def build(folder: Path, *settings: str) -> Any:
    return build_small(folder, "lora.last_blocks=0", *settings)


@pytest.mark.parametrize("layer", [-1, -2, 1])
@pytest.mark.parametrize("tower", [CLIP, SIGLIP])
@torch.inference_mode()
def test_a_published_model_answers_as_in_transformers(tmp_path: Path, tower: str, layer: int) -> None:
    folder = save_llava_hf(tmp_path / "llava", tower, vision_feature_layer=layer)
    built = build(folder)
    backbone, frames = built.model.backbone, built.frames(2)
    assert isinstance(backbone, Composed) and backbone.tower.config.num_hidden_layers == (
        layer if layer > 0 else 4 + layer
    )
    pixel = default_pixel(str(folder))
    assert (pixel.height, pixel.width, pixel.mean, pixel.interpolation) == (64, 64, BACKBONES[tower].mean, "bicubic")

    llava = transformers.LlavaForConditionalGeneration.from_pretrained(folder).eval()
    layout = built.model.fixed.layout
    count = 4 * 16
    assert int(layout.is_visual.sum()) == count
    image = llava.config.image_token_id
    ids = torch.tensor(layout.ids).where(torch.tensor(~layout.is_visual), image).expand(2, -1)
    text = transformers.AutoTokenizer.from_pretrained(folder).decode(ids[0])
    question = built.config.vlm.prompts[0].question
    assert text.startswith("USER: " + "<image>" * count + f"\n{question} ASSISTANT: ")
    llava.get_input_embeddings().weight[backbone.token] = backbone.embed(torch.tensor([backbone.token]))[0]
    pixels = backbone.vision.tower._pixels(frames.flatten(0, 1))
    states = llava(input_ids=ids, pixel_values=pixels, output_hidden_states=True).hidden_states[-1][:, -1]
    assert (states[0] - states[1]).abs().max() > 1e-3
    torch.testing.assert_close(built.model.features(frames)[:, 0], states, rtol=1e-4, atol=1e-4)
    vision, text_stage, _ = built.model.stages(built.contract)
    constants = [torch.from_numpy(text_stage.constants[name]) for name in text_stage.stage.constants]
    exported = text_stage.module(vision.module(frames.flatten(0, 1)).unflatten(0, (2, 4)), *constants)
    torch.testing.assert_close(exported, states, rtol=1e-4, atol=1e-4)

    save_llava(backbone, tmp_path / "again")
    again = build(tmp_path / "again")
    assert torch.equal(again.model.features(frames), built.model.features(frames))
    plain, loaded = transformers.LlavaForConditionalGeneration.from_pretrained(
        tmp_path / "again", output_loading_info=True
    )
    assert not loaded["missing_keys"] and not loaded["unexpected_keys"]
    ids = torch.where(ids == image, plain.config.image_token_id, ids)
    found = plain.eval()(input_ids=ids, pixel_values=pixels, output_hidden_states=True).hidden_states[-1][:, -1]
    torch.testing.assert_close(found, states, rtol=1e-4, atol=1e-4)


def test_names_of_older_versions_are_read(tmp_path: Path) -> None:
    folder = save_llava_hf(tmp_path / "llava", CLIP)
    frames = build(folder).frames(2)
    expected = build(folder).model.features(frames)
    weights = load_file(folder / "model.safetensors")
    older = {name.replace("vision_tower.", "vision_tower.vision_model."): value for name, value in weights.items()}
    assert set(older) != set(weights)
    save_file(older, folder / "model.safetensors", {"format": "pt"})
    assert torch.equal(build(folder).model.features(frames), expected)


def refused(folder: Path, said: str, *settings: str, kind: type[VidriskError] = SettingsError) -> None:
    with pytest.raises(kind, match=said) as caught:
        build(folder, *settings)
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture(scope="module")
def saved(
    backbone_folder: Make, language_folder: Make, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return a function that saves a folder by its kind, ``plain`` or ``own``, with a projector next to it.

    Tests must not change the folder.
    """
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            tower, grid = (backbone_folder(CLIP), "null") if kind == "plain" else (EMBEDDED, "2")
            built = build_small(f"compose:{tower}+{language_folder()}", "lora.last_blocks=0", f"vlm.grid={grid}")
            with torch.inference_mode():
                built.model.standardise(lambda: [built.frames(2)])
            made[kind] = tmp_path_factory.mktemp("saved") / kind
            save_llava(built.model.backbone, made[kind])
        return made[kind]

    return make


@pytest.fixture(params=["plain", "own"])
def folder(request: pytest.FixtureRequest, saved: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved(request.param), tmp_path / request.param))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"vision_feature_select_strategy": "full"},
            "vision_feature_select_strategy 'full' with a tower 'clip_vision_model'; allowed: "
            "default: all patches and no class token",
        ),
        ({"vision_feature_layer": [-2, -1]}, r"vision_feature_layer \[-2, -1\]; allowed: one of -3 to -1, or 1 to 3"),
        ({"vision_feature_layer": 9}, "vision_feature_layer 9; allowed: one of -3 to -1, or 1 to 3"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act 'relu'; allowed: gelu"),
        (
            {"image_token_index": 5},
            r"<image> is token \d+ to the tokenizer of .*, and 5 to the model; allowed: the tokenizer of the ",
        ),
        (
            {"vision_config": {"model_type": "dinov2"}},
            "a tower 'dinov2'; allowed: clip_vision_model, siglip_vision_model",
        ),
        ({"text_config": {"model_type": "bert"}}, "cannot be loaded|is not causal|lacks"),
        ({"text_config": {"model_type": "absent"}}, "unknown backbone"),
        ({"vidrisk": {"version": "1.1"}}, "a key 'vidrisk' that is damaged: pixel Field required"),
        ({"vidrisk": {"version": "9.0"}}, "damaged: vidrisk in config.json has version 9.0; allowed: 1.x"),
        ({"vidrisk": 3}, "a key 'vidrisk' that is damaged"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    saved: Callable[[str], Path], tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    folder = Path(shutil.copytree(saved("plain"), tmp_path / "plain"))
    change(folder / "config.json", **values)
    refused(folder, said)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"vidrisk": None}, "no key 'vidrisk'; allowed: what vidrisk has saved"),
        ({"text_config": 3}, "config.json cannot be read: "),
        ({"vision_config": {}}, "config.json cannot be read: KeyError"),
        ({"vision_config": {"model_type": EMBEDDED, "hidden_size": 64}}, "cannot be loaded: "),
        ({"image_token_index": 5}, "and 5 to the model"),
    ],
)
def test_a_configuration_of_vidrisks_own_that_does_not_fit_is_refused(
    saved: Callable[[str], Path], tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    folder = Path(shutil.copytree(saved("own"), tmp_path / "own"))
    change(folder / "config.json", **values)
    refused(folder, said)


def test_an_embedded_tower_must_be_known(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved("own"), tmp_path / "own"))
    notes = json.loads((folder / "config.json").read_text())["vidrisk"]
    change(folder / "config.json", vidrisk=notes | {"tower": "vit"})
    refused(folder, "an embedded tower 'vit'; allowed: efficientnet-lite0")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("config.json", "unknown backbone"),
        ("model.safetensors", "cannot be loaded"),
        ("tokenizer*", "has (no tokenizer|a tokenizer without a vocabulary)"),
    ],
)
def test_a_part_that_is_missing_is_named_in_one_line(folder: Path, name: str, said: str) -> None:
    for path in folder.glob(name):
        path.unlink()
    refused(folder, said)


def test_a_published_model_needs_its_processor(tmp_path: Path) -> None:
    folder = save_llava_hf(tmp_path / "llava", CLIP)
    (folder / "preprocessor_config.json").unlink()
    refused(folder, "the image processor of .* gives no mean and deviation")


@pytest.mark.parametrize("part", ["multi_modal_projector.linear_1", "language_model", "vision_tower"])
def test_weights_that_are_missing_or_anothers_are_refused(folder: Path, part: str) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    named = [name for name in weights if part in name and weights[name].ndim >= 2]
    kept = {name: value for name, value in weights.items() if name != named[0]}
    save_file(kept, path, {"format": "pt"})
    refused(folder, "lacks [12] weights, such as|do not fit efficientnet-lite0: ")
    save_file(kept | {named[0]: torch.zeros(3, 5)}, path, {"format": "pt"})
    refused(folder, "cannot be loaded: |do not fit efficientnet-lite0: ")


def test_a_token_that_the_tokenizer_has_elsewhere_is_refused(folder: Path) -> None:
    notes = json.loads((folder / "config.json").read_text())["vidrisk"]
    change(folder / "config.json", vidrisk=notes | {"token_id": 3})
    refused(
        folder,
        r"<ACT> is token \d+ to the tokenizer of .*, and 3 to config.json; allowed: the tokenizer of the same model",
    )
    assert build(folder, "vlm.token=<ACTION>").model.backbone.width == WIDTH  # another one is added


def test_a_damaged_projector_is_refused(folder: Path) -> None:
    own = folder / "vidrisk" / "projector.safetensors"
    whole = own.read_bytes()
    own.write_bytes(whole[:-50])
    refused(folder, r"projector.safetensors cannot be read", kind=BundleError)
    save_file({name: value for name, value in load(whole).items() if name != "mean"}, own)
    refused(folder, r"projector.safetensors does not fit", kind=BundleError)


def test_a_size_that_the_tower_does_not_take_is_refused(saved: Callable[[str], Path]) -> None:
    refused(
        saved("plain"), r"the tower of backbone .* does not take 96x64 images: .*; allowed: 64x64", "pixel.height=96"
    )


def test_settings_that_mean_nothing_to_a_folder_are_refused(saved: Callable[[str], Path]) -> None:
    refused(saved("plain"), r"vlm.grid 3 has no effect on backbone .*", "vlm.grid=3")


def test_a_folder_is_no_encoder(saved: Callable[[str], Path]) -> None:
    for kind in ("plain", "own"):
        with pytest.raises(SettingsError, match="answers with a language model and is not an encoder"):
            build_encoder(str(saved(kind)))


def test_other_models_are_written_as_they_were_published(qwen_folder: Make, tmp_path: Path) -> None:
    built = build_small(qwen_folder("qwen3_vl"), "lora.last_blocks=0")
    write_merged(built.model, tmp_path / "merged")
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"} <= names
    with pytest.raises(SettingsError, match=r"NoneType is not a vision-language model; allowed: Qwen"):
        write_merged(SimpleNamespace(), tmp_path / "none")  # type: ignore[arg-type]


def test_rows_beyond_the_tokenizer_are_kept(saved: Callable[[str], Path]) -> None:
    assert json.loads((saved("plain") / "config.json").read_text())["text_config"]["vocab_size"] == ROWS
