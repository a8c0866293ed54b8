"""Tests that models which cannot become text graphs are refused in one line, before anything is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vidrisk.export.text import builder
from vidrisk.runtimes.contract.errors import MissingExtra, RuntimeFailure, SettingsError

LLAMA = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64}


def written(folder: Path, config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ([], "does not describe a model"),
        ({}, "does not describe a model"),
        ({"architectures": []}, "does not describe a model"),
        ({**LLAMA, "architectures": ["GemmaForCausalLM"]}, "built from GemmaForCausalLM; allowed: .*Qwen2ForCausalLM"),
        ({**LLAMA, "sliding_window": 32}, "attends to 32 tokens"),
        ({**LLAMA, "quantization_config": {"bits": 4}}, "are quantised"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, config: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        builder.read_config(written(tmp_path, config))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not describe a model"):
        builder.read_config(tmp_path)


@pytest.mark.parametrize(
    "extra", [{}, {"sliding_window": None}, {"sliding_window": 32, "use_sliding_window": False}, {"sliding_window": 64}]
)
def test_a_window_that_hides_nothing_is_no_window(tmp_path: Path, extra: dict[str, Any]) -> None:
    assert builder.read_config(written(tmp_path, {**LLAMA, **extra}))["architectures"] == LLAMA["architectures"]


def test_the_builder_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "PACKAGE", "onnxruntime_genai_that_is_not_there")
    with pytest.raises(MissingExtra, match="text-export"):
        builder.build_graph(tmp_path, tmp_path)


def test_what_the_builder_says_last_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package" / "stand_in" / "models"
    package.mkdir(parents=True)
    (package / "builder.py").write_text("raise NotImplementedError('a part that is not supported')", encoding="utf-8")
    monkeypatch.setattr(builder, "PACKAGE", "stand_in")
    monkeypatch.setattr(builder, "is_installed", lambda _: True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "package"))
    with pytest.raises(RuntimeFailure, match="failed for model: NotImplementedError: a part that is not supported"):
        builder.build_graph(tmp_path / "model", tmp_path)
