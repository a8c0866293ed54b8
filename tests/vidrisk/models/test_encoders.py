"""Tests of encoders of every family, from folders in their published form; others are refused in one line."""

from __future__ import annotations

import importlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from backbones import BACKBONES, FAMILIES, FRAME_TRANSFORMERS, TRANSFORMERS, WINDOW, WINDOW_TRANSFORMERS
from torch import nn
from vlms import QWEN

from vidrisk.models.encoders import Encoder, build_encoder, default_pixel
from vidrisk.models.families import FAMILIES as KNOWN
from vidrisk.models.families.family import COMPOSE
from vidrisk.runtimes import PixelSpec
from vidrisk.runtimes.contract.errors import SettingsError

Make = Callable[..., Any]


@pytest.mark.parametrize("family", FRAME_TRANSFORMERS)
def test_features_are_the_familys_own_on_normalised_pixels(backbone_folder: Make, clips: Make, family: str) -> None:
    folder = backbone_folder(family)
    encoder = build_encoder(str(folder))
    described = json.loads((folder / "preprocessor_config.json").read_text())
    frames = torch.from_numpy(clips(3)[:, 0])
    mean, std = (torch.tensor(described[f"image_{name}"]).view(1, 3, 1, 1) for name in ("mean", "std"))
    pixels = (frames.permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        output = encoder.backbone(pixels)
        features = encoder(frames)
    expected = output.last_hidden_state[:, 0] if family == "vit" else output.pooler_output
    assert features.shape == (3, encoder.width) == (3, 64)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)
    assert encoder.family.name == family
    assert features.std(dim=0).max() > 1e-3  # different frames, different features


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_default_pixel_is_what_the_folder_says(
    backbone_folder: Make, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = backbone_folder(family)
    backbone = BACKBONES[family]
    assert default_pixel(str(folder)) == PixelSpec(
        64, 64, interpolation="bicubic", mean=backbone.mean, std=backbone.std
    )
    assert not [r for r in caplog.records if r.name.startswith("vidrisk")]


def test_the_families_tested_are_all_there_are() -> None:
    """The tests cover every family.

    A new architecture needs one file in ``models/families`` and one line in
    ``tests/vidrisk/models/backbones.py``.
    """
    assert {family.name for family in KNOWN.values() if family.build is None} == set(FAMILIES)
    assert {family.name for family in KNOWN.values() if family.build is not None} == {*QWEN, COMPOSE, "llava"}
    assert {name for name, family in KNOWN.items() if family.per == "window"} == set(WINDOW_TRANSFORMERS)


def pixels_of(windows: torch.Tensor, family: str) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, 1, 3, 1, 1) for values in BACKBONES[family].normalisation)
    return (windows.permute(0, 1, 4, 2, 3) / 255 - mean) / std


@pytest.mark.parametrize("family", WINDOW_TRANSFORMERS)
def test_features_of_a_window_are_what_its_own_classifier_reads(
    backbone_folder: Make, clips: Make, family: str
) -> None:
    folder, windows = backbone_folder(family), torch.from_numpy(clips(3, WINDOW))
    encoder = build_encoder(str(folder), frames=WINDOW)
    own = getattr(transformers, BACKBONES[family].model_class).from_pretrained(folder).eval()
    pixels = pixels_of(windows, family)
    with torch.inference_mode():
        tokens = (own(pixels, skip_predictor=True) if family == "vjepa2" else own(pixels)).last_hidden_state
        features = encoder(windows)
        backwards = encoder(windows.flip(1))
    expected = tokens[:, 0] if family in ("timesformer", "vivit") else tokens.mean(dim=1)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)
    assert features.shape == (3, encoder.width) == (3, 64)
    assert features.std(dim=0).max() > 1e-3
    assert (backwards - features).abs().max() > 1e-3  # it sees the order of the frames


@pytest.mark.parametrize(
    "processing",
    [
        {},
        {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]},
        {"offset": False, "rescale_factor": 1 / 255},
    ],
)
@pytest.mark.parametrize(
    ("family", "processor"),
    [
        ("timesformer", "videomae.image_processing_pil_videomae.VideoMAEImageProcessorPil"),
        ("vivit", "vivit.image_processing_vivit.VivitImageProcessor"),
    ],
)
def test_a_tower_sees_the_pixels_that_its_own_processor_makes(
    backbone_folder: Make, clips: Make, tmp_path: Path, family: str, processor: str, processing: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(backbone_folder(family), tmp_path / family))
    path = folder / "preprocessor_config.json"
    described = json.loads(path.read_text()) | {"do_center_crop": False} | processing
    path.write_text(json.dumps(described))
    module, name = processor.rsplit(".", 1)
    own = getattr(importlib.import_module(f"transformers.models.{module}"), name)(**described)
    windows = clips(1, WINDOW)
    expected = own(list(windows[0]), return_tensors="pt")["pixel_values"]
    encoder = build_encoder(str(folder), frames=WINDOW)
    torch.testing.assert_close(encoder._pixels(torch.from_numpy(windows)), expected, atol=1e-5, rtol=0)
    before = default_pixel(str(folder))
    del described["image_processor_type"]  # as a video processor writes it
    described["video_processor_type"] = processor.rsplit(".", 1)[1].replace("Image", "Video").removesuffix("Pil")
    path.with_name("video_preprocessor_config.json").write_text(json.dumps(described))
    path.unlink()
    assert default_pixel(str(folder)) == before


@pytest.mark.parametrize("family", [family for family in WINDOW_TRANSFORMERS if KNOWN[family].tubelet == 2])
@pytest.mark.parametrize("frames", [1, 3])
def test_windows_are_whole_tubelets(backbone_folder: Make, family: str, frames: int) -> None:
    with pytest.raises(
        SettingsError, match=f"windows of {frames} frames .* allowed: clips, multiples of 2; fix: set frames"
    ):
        build_encoder(str(backbone_folder(family)), frames=frames)


@pytest.mark.parametrize("family", WINDOW_TRANSFORMERS)
def test_windows_of_another_length_and_size_than_a_checkpoints(backbone_folder: Make, clips: Make, family: str) -> None:
    encoder = build_encoder(str(backbone_folder(family)), pixel={"height": 32, "width": 32}, frames=6)
    with torch.inference_mode():
        assert encoder(torch.from_numpy(clips(2, 6, side=32))).shape == (2, 64)


def test_v_jepa_sees_squares(backbone_folder: Make) -> None:
    with pytest.raises(SettingsError, match="V-JEPA 2 on 64x32 frames; allowed: square frames"):
        build_encoder(str(backbone_folder("vjepa2")), pixel={"height": 64, "width": 32}, frames=WINDOW)


def test_without_a_processor_imagenet_is_taken_and_said(
    backbone_folder: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(backbone_folder("vit"), tmp_path / "bare"))
    (folder / "preprocessor_config.json").unlink()
    caplog.set_level(logging.WARNING, "vidrisk")
    assert default_pixel(str(folder)) == PixelSpec(64, 64)
    assert "using the mean and std of ImageNet" in caplog.text


@pytest.mark.parametrize(("whole", "vision"), [("CLIP", "clip_vision_model"), ("Siglip", "siglip_vision_model")])
def test_of_two_towers_the_vision_tower_is_taken(
    backbone_folder: Make, clips: Make, tmp_path: Path, whole: str, vision: str
) -> None:
    tower = build_encoder(str(backbone_folder(vision)))
    text = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 50,
    }
    config = getattr(transformers, f"{whole}Config")(text_config=text, vision_config=tower.backbone.config.to_dict())
    both = getattr(transformers, f"{whole}Model")(config)
    both.vision_model.load_state_dict(
        {name.removeprefix("vision_model."): value for name, value in tower.backbone.state_dict().items()}
    )
    both.save_pretrained(tmp_path)
    shutil.copy(backbone_folder(vision) / "preprocessor_config.json", tmp_path)
    encoder = build_encoder(str(tmp_path))
    assert encoder.family.name == vision
    assert type(encoder.backbone) is type(tower.backbone)
    frames = torch.from_numpy(clips(2)[:, 0])
    with torch.inference_mode():
        torch.testing.assert_close(encoder(frames), tower(frames))


def test_pools_of_a_transformer(backbone_folder: Make, clips: Make) -> None:
    frames = torch.from_numpy(clips(2)[:, 0])
    results = {
        pool: build_encoder(str(backbone_folder("dinov2")), pool=pool)(frames) for pool in ("cls", "mean", "pooler")
    }
    torch.testing.assert_close(results["cls"], results["pooler"])
    assert (results["cls"] - results["mean"]).abs().max() > 1e-3
    with pytest.raises(SettingsError, match="does not encode 64x64 images with pool 'pooler'"):
        build_encoder(str(backbone_folder("vit")), pool="pooler")


def test_sizes(backbone_folder: Make) -> None:
    assert build_encoder(str(backbone_folder("dinov2")), pixel={"height": 96, "width": 80}).width == 64
    with pytest.raises(SettingsError, match="does not encode 96x96 images"):
        build_encoder(str(backbone_folder("vit")), pixel={"height": 96, "width": 96})
    with pytest.raises(SettingsError, match=r"pixel\.size is unknown; allowed: crop_fraction, height"):
        build_encoder(str(backbone_folder("vit")), pixel={"size": 96})


@pytest.mark.parametrize("name", ["no-such-user/no-such-model", "no such name", "", "a/b/c", "..", "/nowhere/at/all"])
def test_unknown_backbones_are_one_line_at_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for ask in (build_encoder, default_pixel):
        with pytest.raises(SettingsError, match="unknown backbone") as caught:
            ask(name)
        assert len(str(caught.value).splitlines()) == 1
        assert "efficientnet-lite0, a Hugging Face hub id, a local folder or compose:TOWER+LLM" in str(caught.value)


def refused(folder: Path, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        build_encoder(str(folder))
    assert len(str(caught.value).splitlines()) == 1


def test_folders_that_hold_no_backbone(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "unknown backbone")
    for number, content in enumerate(("", "{", "[]", "{}", '{"model_type": "no-such-type"}')):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text(content)
        refused(folder, "backbone")


def test_pickled_weights_are_never_read(backbone_folder: Make, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(backbone_folder("vit"), tmp_path / "pickled"))
    torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refused(folder, r"cannot be loaded.*fix: it needs a config\.json and model\.safetensors")


def test_damaged_and_foreign_weights(backbone_folder: Make, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(backbone_folder("vit"), tmp_path / "vit"))
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for content in (b"", b"garbage", whole[:100], whole[: len(whole) // 2]):
        path.write_bytes(content)
        refused(folder, "cannot be loaded")
    path.write_bytes((backbone_folder("dinov2") / "model.safetensors").read_bytes())
    refused(folder, "cannot be loaded")
    path.write_bytes(whole)
    weights = safetensors.torch.load_file(path)
    some = {
        name: value for name, value in weights.items() if "layernorm_after" not in name
    }  # these would be left random
    safetensors.torch.save_file(some, path, metadata={"format": "pt"})
    refused(folder, "lacks 6 weights, such as .*layernorm_after")
    path.write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    refused(folder, "cannot be loaded")


def test_a_text_model_is_no_image_encoder(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    refused(tmp_path, "does not encode")


def test_a_model_that_answers_in_text_is_not_taken_for_its_vision_tower(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision, text = transformers.CLIPVisionConfig(**sizes), transformers.LlamaConfig(**sizes)
    transformers.LlavaNextConfig(
        vision_config=vision, text_config=text, architectures=["LlavaNextForConditionalGeneration"]
    ).save_pretrained(tmp_path)
    with pytest.raises(
        SettingsError, match=r"is a llava_next model, .*; allowed: .*Qwen2\.5-VL, .*; fix: save its vision tower"
    ):
        build_encoder(str(tmp_path))


def test_batch_norms_stay_in_evaluation() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    encoder = Encoder(backbone, PixelSpec(8, 8), pool="avg", family=KNOWN["efficientnet-lite0"]).train()
    assert [m.training for m in backbone] == [True, False, True]
    before = backbone[1].running_mean.clone()
    encoder(torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8))
    assert torch.equal(backbone[1].running_mean, before)
    assert not any(m.training for m in encoder.eval().modules())


@pytest.mark.parametrize("family", ["vit", "efficientnet-lite0"])
def test_an_encoder_run_in_two_parts_is_the_same(adapted_encoder: Make, clips: Make, family: str) -> None:
    encoder, frames = adapted_encoder(family), torch.from_numpy(clips(2)[:, 0])
    with torch.inference_mode():
        whole = encoder(frames)
        assert torch.equal(encoder.upper(encoder.lower(frames)), whole)
        trained = [name for name, p in encoder.named_parameters() if p.requires_grad]
        below = [f"blocks.{block}." for block in range(encoder.frozen_blocks)]
        assert not [name for name in trained if any(part in name for part in below)]
        encoder.is_frozen = True
        assert torch.equal(encoder.upper(encoder.lower(frames)), whole)


@pytest.mark.parametrize("family", ["vit", "efficientnet-lite0"])
def test_adapted_encoders_can_be_trained(adapted_encoder: Make, clips: Make, family: str) -> None:
    encoder = adapted_encoder(family).train()
    encoder(torch.from_numpy(clips(2)[:, 0])).square().mean().backward()
    assert {name for name, p in encoder.named_parameters() if p.grad is not None} == {
        name for name, _ in encoder.named_parameters() if "lora_" in name
    }


CODE = """
from transformers import PreTrainedConfig
open({here!r}, "w")
class EvilConfig(PreTrainedConfig):
    model_type = "evil"
"""


def test_code_beside_the_weights_is_neither_run_nor_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question"))
    folder, here = tmp_path / "evil", tmp_path / "was here"
    folder.mkdir()
    (folder / "conf.py").write_text(CODE.format(here=str(here)))
    (folder / "config.json").write_text(
        json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "conf.EvilConfig", "AutoModel": "conf.EvilModel"}})
    )
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "Evil", "auto_map": {"AutoImageProcessor": "conf.Evil"}})
    )
    for ask in (build_encoder, default_pixel, lambda name: build_encoder(name, local_only=True)):
        with pytest.raises(SettingsError) as caught:
            ask(str(folder))
        assert len(str(caught.value).splitlines()) == 1
    assert not here.exists()


def test_a_backbone_that_is_not_here_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a run downloads nothing, whatever the settings of huggingface_hub."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("a look at the network"))
    with pytest.raises(SettingsError, match=r"'somebody/a-model' is not on this machine: .*; fix: download it once"):
        build_encoder("somebody/a-model", local_only=True)


@pytest.mark.parametrize("family", FRAME_TRANSFORMERS)
def test_a_pair_is_a_frame_and_what_changes_until_the_next(backbone_folder: Make, clips: Make, family: str) -> None:
    folder = str(backbone_folder(family))
    pairs = torch.from_numpy(clips(3, 2))
    alone, both = build_encoder(folder), build_encoder(folder, rgb_diff=True)
    change = ((pairs[:, 1].float() - pairs[:, 0].float()) * 2 + 128).clamp(0, 255)
    with torch.inference_mode():
        expected = torch.cat([alone(pairs[:, 0]), alone(change)], dim=1)
        features = both(pairs)
    assert (both.width, both.group, both.input_shape) == (2 * alone.width, 2, (2, 64, 64, 3))
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)


def test_pairs_are_kept_below_the_trained_blocks() -> None:
    encoder = build_encoder("efficientnet-lite0", pixel={"height": 64, "width": 64}, rgb_diff=True)
    pairs = torch.randint(0, 255, (3, 2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = encoder(pairs)
        encoder.frozen_blocks = 3
        hidden = encoder.lower(pairs)
        assert hidden.shape[:2] == (3, 2)
        torch.testing.assert_close(encoder.upper(hidden), expected)
