"""Tests of the files that a backbone must contain, and of the files in it that are never read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file
from vlms import QWEN, build_small

from vidrisk.runtimes.contract.errors import MissingExtra, SettingsError, VidriskError

Make = Callable[..., Path]


@pytest.fixture(params=QWEN)
def folder(request: pytest.FixtureRequest, qwen_folder: Make, tmp_path: Path) -> Path:
    """Return a copy of a model folder that a test may change."""
    return Path(shutil.copytree(qwen_folder(request.param), tmp_path / request.param))


def build(folder: Path, *assignments: str) -> Any:
    edge = 28 if "2_5" in folder.name else 32
    return build_small(folder, f"pixel.height={edge}", f"pixel.width={edge}", "frames=2", *assignments)


def refused(folder: Path, said: str, *assignments: str, kind: type[VidriskError] = SettingsError) -> None:
    with pytest.raises(kind, match=said) as caught:
        build(folder, *assignments)
    assert len(str(caught.value).splitlines()) == 1


def test_it_can_be_built(folder: Path) -> None:
    assert build(folder).model.backbone.width == 64


def test_a_processor_that_is_missing_is_named(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    refused(
        folder, r"has no image processor; allowed: processor_config.json or preprocessor_config.json; fix: copy the"
    )


@pytest.mark.parametrize("key", ["patch_size", "merge_size", "temporal_patch_size"])
def test_a_processor_of_another_model_is_refused(folder: Path, key: str) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: 7}))
    refused(
        folder,
        rf"the image processor of .* has {key} 7, and the model \d+; allowed: the processor of the same model; fix: ",
    )


@pytest.mark.parametrize(
    "damage", [{"image_mean": None}, {"image_std": None}, {"image_mean": "red"}, {"image_std": [0.5]}]
)
def test_a_processor_without_mean_and_deviation_is_refused(folder: Path, damage: dict[str, Any]) -> None:
    """A processor without mean and deviation is refused, because ImageNet's values would shift every picture."""
    for path in folder.glob("*preprocessor_config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    refused(
        folder,
        rf"the image processor of .* gives no mean and deviation: .*{next(iter(damage))} .*; "
        "allowed: image_mean and image_std; fix: copy preprocessor_config.json of that model",
    )
    for path in folder.glob("*preprocessor_config.json"):
        path.unlink()
    refused(folder, "gives no mean and deviation: .*preprocessor_config.json")


@pytest.mark.parametrize("content", ["{", "[]", "3", ""])
def test_a_damaged_processor_is_refused(folder: Path, content: str) -> None:
    (folder / "preprocessor_config.json").write_text(content)
    refused(
        folder,
        "preprocessor_config.json of backbone .* cannot be read|has no image processor|json holds a (list|int) instead",
    )


def test_a_processor_in_the_newer_file_is_found(folder: Path) -> None:
    old = folder / "preprocessor_config.json"
    described = json.loads(old.read_text())
    old.unlink()
    (folder / "processor_config.json").write_text(
        json.dumps({"image_processor": described, "processor_class": "Processor"})
    )
    assert build(folder).contract.pixel.mean == tuple(described["image_mean"])
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": described | {"patch_size": 7}}))
    refused(folder, "has patch_size 7")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tokenizer*", "has (no tokenizer|a tokenizer without a vocabulary)"),
        ("config.json", "unknown backbone"),
        ("model.safetensors", "cannot be loaded"),
    ],
)
def test_a_file_that_is_missing_is_named_in_one_line(folder: Path, name: str, said: str) -> None:
    for path in folder.glob(name):
        path.unlink()
    refused(folder, said)


def test_a_tokenizer_of_an_unknown_kind_is_one_line(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model": {"type": "Later"}}))
    refused(folder, "has no tokenizer: ")


def test_attention_of_the_folders_own_is_refused(folder: Path) -> None:
    """A hub name as attention is refused: transformers would fetch native code by this name and run it."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attn_implementation": "kernels-community/x"}))
    refused(
        folder,
        "asks for attention 'kernels-community/x'; allowed: eager or sdpa; fix: remove attn_implementation from it",
    )


def test_kernels_of_the_hub_are_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From transformers 5.25 on, the default downloads native code on a GPU and runs it."""
    uses: list[bool] = []
    monkeypatch.setattr("transformers.PreTrainedModel.set_use_kernels", lambda model, use, *_, **__: uses.append(use))
    build(folder)
    assert uses and not any(uses)


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"video_token_id": 3}))
    refused(
        folder,
        r"<\|video_pad\|> is token \d+ to the tokenizer of .*, and 3 to the model; allowed: the tokenizer of the same ",
    )


def test_weights_that_are_cut_off_or_missing_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    refused(folder, "cannot be loaded")
    path.unlink()
    save_file({name: value for name, value in load(whole).items() if "merger" not in name}, path, {"format": "pt"})
    refused(folder, r"lacks \d+ weights, such as model\.visual\.")


def test_pickled_weights_are_ignored(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
    refused(folder, "cannot be loaded: .*safetensors")


def test_an_adapter_beside_the_weights_is_refused(folder: Path) -> None:
    """An adapter next to the weights is refused: transformers would pass it to PEFT, which imports its names."""
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    refused(folder, "has an adapter_config.json; allowed: merged weights")


def test_code_beside_the_weights_is_not_run(folder: Path) -> None:
    mark = folder / "was here"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    path = folder / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}})
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            json.loads((folder / "tokenizer_config.json").read_text())
            | {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
        )
    )
    assert build(folder).model.backbone.width == 64  # as if the names were not there
    assert not mark.exists()


def test_four_bits_need_a_package_that_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidrisk.models.vlm.loading.is_installed", lambda name: False)
    refused(
        folder,
        r"bitsandbytes is not installed; fix: pip install 'vidrisk\[4bit\]'",
        "vlm.weights=4bit",
        kind=MissingExtra,
    )
