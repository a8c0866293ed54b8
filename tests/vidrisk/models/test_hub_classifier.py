"""Tests of Hugging Face classifiers: labels and pixels follow the folder, logits equal those of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from vidrisk.export.convert.graphs import export_onnx
from vidrisk.export.convert.merge import merge_trained
from vidrisk.export.foreign.wrap import classifier_stage
from vidrisk.export.trained import TrainedStage
from vidrisk.models.encoders import build_encoder
from vidrisk.models.hub_classifier import load_hub_classifier
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.errors import BundleError, DataError, SettingsError, VidriskError
from vidrisk.runtimes.contract.specs import TimeSpec
from vidrisk.runtimes.ort import OnnxRuntimeRunner

LABELS = {0: "run", 1: "sit", 2: "fall"}
NAMED = {"id2label": LABELS, "label2id": {label: index for index, label in LABELS.items()}}
PROCESSOR = {
    "size": {"height": 32, "width": 32},
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.25, 0.3],
    "image_processor_type": "ViTImageProcessor",
}
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 16,
    **NAMED,
}
STAGED = {"hidden_sizes": [8, 16], "depths": [1, 1], **NAMED}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTForImageClassification", "ViTConfig", SMALL),
    "videomae": ("VideoMAEForVideoClassification", "VideoMAEConfig", {**SMALL, "num_frames": 4}),
    # No attention of torch's own:
    "resnet": ("ResNetForImageClassification", "ResNetConfig", {**STAGED, "embedding_size": 8, "layer_type": "basic"}),
    "convnext": ("ConvNextForImageClassification", "ConvNextConfig", {**STAGED, "num_stages": 2}),
    "timesformer": ("TimesformerForVideoClassification", "TimesformerConfig", {**SMALL, "num_frames": 4}),
}


def saved(folder: Path, kind: str = "vit", **changes: Any) -> Any:
    """Save a small classifier with ``save_pretrained``, change its configuration, and return the model."""
    torch.manual_seed(0)
    name, config_name, options = MODELS[kind]
    model: Any = getattr(transformers, name)(getattr(transformers, config_name)(**options))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return model.eval()


def normalised(frames: np.ndarray[Any, Any]) -> torch.Tensor:
    values = (frames / 255 - PROCESSOR["image_mean"]) / PROCESSOR["image_std"]
    return torch.from_numpy(np.moveaxis(values, -1, -3).astype(np.float32))


FRAMES = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8)


def test_an_image_classifier_averages_over_the_frames_of_a_clip(tmp_path: Path) -> None:
    model = saved(tmp_path)
    found = load_hub_classifier(tmp_path, is_video=True)
    assert (found.labels, found.frames, found.architecture) == (
        ("run", "sit", "fall"),
        None,
        "ViTForImageClassification",
    )
    with torch.inference_mode():
        expected = model(normalised(FRAMES).flatten(0, 1)).logits.reshape(2, 4, 3).mean(dim=1)[:, [2, 0, 1]]
        logits = found.module(4, [2, 0, 1]).eval()(torch.from_numpy(FRAMES))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_a_video_classifier_sees_the_window(tmp_path: Path) -> None:
    model = saved(tmp_path, "videomae")
    found = load_hub_classifier(tmp_path, is_video=True)
    assert found.frames == 4
    with torch.inference_mode():
        expected = model(normalised(FRAMES)).logits
        logits = found.module(4, [0, 1, 2]).eval()(torch.from_numpy(FRAMES))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(found.logits(normalised(FRAMES).numpy()), expected.numpy(), atol=1e-5)
    with pytest.raises(SettingsError, match="a classifier of videos, and the data are photos"):
        load_hub_classifier(tmp_path, is_video=False)


@pytest.mark.parametrize("kind", MODELS)
def test_the_stage_of_a_bundle_computes_what_transformers_does(kind: str, tmp_path: Path) -> None:
    model = saved(tmp_path, kind)
    found = load_hub_classifier(tmp_path, is_video=True)
    contract = Contract(
        task="action", pixel=found.pixel, time=TimeSpec(4), targets=(Target(name="action", labels=found.labels),)
    )
    stage = classifier_stage(contract)
    trained = TrainedStage(stage, found.module(4, [0, 1, 2]))
    export_onnx(merge_trained(trained.source), trained.inputs(2), stage.inputs, stage.outputs, tmp_path / "stage.onnx")
    with torch.inference_mode():
        pixels = normalised(FRAMES)
        expected = (model(pixels) if found.frames else model(pixels.flatten(0, 1))).logits.reshape(2, -1, 3).mean(dim=1)
    runner = OnnxRuntimeRunner(tmp_path / "stage.onnx", stage.inputs, stage.outputs)
    np.testing.assert_allclose(runner.infer({"frames": FRAMES})["action_logits"], expected.numpy(), atol=1e-4)


def test_weights_of_half_precision_are_computed_in_full(tmp_path: Path) -> None:
    model = saved(tmp_path)
    model.half().save_pretrained(tmp_path)
    found = load_hub_classifier(tmp_path, is_video=False)
    with torch.inference_mode():
        expected = model.float()(normalised(FRAMES)[:, 0]).logits
        logits = found.module(1, [0, 1, 2]).eval()(torch.from_numpy(FRAMES[:, :1]))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_kernels_of_the_hub_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From transformers 5.25 on, the default downloads native code on a GPU and runs it."""
    uses: list[bool] = []
    monkeypatch.setattr("transformers.PreTrainedModel.set_use_kernels", lambda model, use, *_, **__: uses.append(use))
    saved(tmp_path)
    load_hub_classifier(tmp_path, is_video=False).module(1, [0, 1, 2])
    assert uses and not any(uses)


@pytest.mark.parametrize("task", ["image", "backbone"])
def test_an_adapter_beside_the_weights_never_reaches_peft(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "peft.PeftConfig.from_pretrained", lambda *args, **kwargs: pytest.fail("PEFT reads a stranger's file")
    )
    saved(tmp_path)
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "auto_mapping": {"parent_library": "antigravity"}}'
    )
    with pytest.raises(SettingsError, match=r"has an adapter_config\.json; allowed: merged weights; fix: merge"):
        load_hub_classifier(tmp_path, is_video=False) if task == "image" else build_encoder(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"architectures": ["ViTModel"]}, SettingsError, "holds ViTModel"),
        ({"auto_map": {"AutoConfig": "evil.py"}}, SettingsError, "contains code of its own"),
        ({"problem_type": "multi_label_classification"}, SettingsError, "is a multi-label classifier"),
        ({"id2label": {"0": "run", "2": "sit", "1": "run"}}, DataError, "correct id2label"),
        (
            {"id2label": ["run", "sit"]},
            DataError,
            r'config.json has id2label \["run", "sit"\]; allowed: an object of labels',
        ),
        ({"id2label": {"run": 0, "sit": 1}}, DataError, r'has id2label \{"run": 0.*; allowed: an object of labels'),
        ({"architectures": [1]}, DataError, r"config.json has architectures \[1\]; allowed: a list of one class name"),
        ({"architectures": "ViTForImageClassification"}, DataError, "has architectures .*; allowed: a list"),
        (
            {"architectures": ["VideoMAEForVideoClassification"], "num_frames": "x"},
            DataError,
            'has num_frames "x"; allowed: 1 to',
        ),
        (
            {"architectures": ["VideoMAEForVideoClassification"], "num_frames": 0},
            DataError,
            "has num_frames 0; allowed: 1 to",
        ),
        ({"architectures": ["WhatForImageClassification"], "model_type": "what"}, SettingsError, "cannot be loaded"),
    ],
)
def test_refuses_what_is_no_classifier(
    changes: dict[str, Any], error: type[VidriskError], reason: str, tmp_path: Path
) -> None:
    saved(tmp_path, **changes)
    with pytest.raises(error, match=reason):
        load_hub_classifier(tmp_path, is_video=True)


def test_refuses_folders_that_lack_a_part(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a Hugging Face model: config\.json"):
        load_hub_classifier(tmp_path, is_video=False)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(BundleError, match=r"is not a Hugging Face model: config\.json cannot be read"):
        load_hub_classifier(tmp_path, is_video=False)
    saved(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(SettingsError, match="cannot be loaded"):
        load_hub_classifier(tmp_path, is_video=False)
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(SettingsError, match="has no safetensors"):
        load_hub_classifier(tmp_path, is_video=False)
