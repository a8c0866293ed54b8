"""Parsing of backbone names, and refusal of settings that a family ignores."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidrisk.models.config import PromptPair, TrainConfig, VlmSettings, config_from_options, write_config
from vidrisk.models.families import FAMILIES, Source
from vidrisk.models.pretrained import resolve_config
from vidrisk.models.vlm.prompts import prompts_from_settings
from vidrisk.runtimes.contract.errors import SettingsError


@pytest.mark.parametrize(
    ("tower", "language"),
    [("vit", "llama"), ("vit+2", "llama"), ("vit", "llama+lora"), ("a+b/vit", "c+d/llama+"), ("+", "x+y+z")],
)
def test_folders_of_a_composed_model_may_have_a_plus_sign(
    tower: str, language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (tower, language):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for folder in (Path(), tmp_path):
        source = Source(f"compose:{folder / tower}+{folder / language}")
        assert source.parts == (str(folder / tower), str(folder / language))
        assert source.resolved == f"compose:{tmp_path / tower}+{tmp_path / language}"
    assert Source(f"compose:efficientnet-lite0+{language}").parts == ("efficientnet-lite0", language)
    assert Source(f"compose:{tower}+Qwen/Qwen2.5-0.5B").parts == (tower, "Qwen/Qwen2.5-0.5B")


@pytest.mark.parametrize(
    ("backbone", "parts"),
    [("compose:a+b/c", ("a", "b/c")), ("compose:a", ("a",)), ("compose:a+b+c", ("a", "b", "c")), ("a+b", ("a+b",))],
)
def test_names_have_no_plus_sign(backbone: str, parts: tuple[str, ...]) -> None:
    assert Source(backbone).parts == parts


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("vlm.grid=3", "vlm.grid 3"),
        ("vlm.weights=bfloat16", "vlm.weights 'bfloat16'"),
        ("vlm.system=''", "vlm.system ''"),
        ("vlm.prompts=[{question: Which, reply: '{token}'}]", r"vlm.prompts \(PromptPair.*"),
        ("lora.parts=[vision]", r"lora.parts \('vision',\)"),
        ("optim.projector_lr=0.1", "optim.projector_lr 0.1"),
        ("optim.token_lr=0", "optim.token_lr 0.0"),
    ],
)
def test_an_encoder_takes_no_settings_of_a_language_model(assignment: str, said: str) -> None:
    name = assignment.partition("=")[0]
    with pytest.raises(
        SettingsError,
        match=rf"^{said} has no effect on backbone 'efficientnet-lite0'; "
        rf"allowed: its default; fix: leave {name} out",
    ) as caught:
        resolve_config(config_from_options(None, [assignment]), clips=True)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("family", "name"), [("qwen2_5_vl", "vlm.grid"), ("qwen3_vl", "vlm.grid"), ("compose:", "vlm.fps")]
)
def test_a_vision_language_model_names_what_it_ignores(family: str, name: str) -> None:
    settings = {
        "vlm.grid": 3,
        "vlm.fps": 5.0,
        "vlm.weights": "bfloat16",
        "lora.parts": ["vision"],
        "optim.projector_lr": 0.1,
    }
    with pytest.raises(SettingsError, match=rf"^{name} \d"):
        FAMILIES[family].check_settings(config_from_options(settings=settings))
    del settings[name]
    FAMILIES[family].check_settings(config_from_options(settings=settings))


def test_what_training_wrote_may_be_trained_again(tmp_path: Path) -> None:
    """A run's own file is accepted again, also for another task, and so is a file of an earlier version.

    A file of the earlier version holds prompts for any backbone.
    """
    config = resolve_config(TrainConfig(), clips=True)
    assert config.vlm.prompts is None
    of_before = config.model_copy(update={"vlm": VlmSettings(prompts=prompts_from_settings(None, "action"))})
    for written in (config, of_before):
        write_config(written, tmp_path / "config.yaml")
        assert resolve_config(config_from_options(tmp_path / "config.yaml"), clips=True) == config
        assert (
            resolve_config(config_from_options(tmp_path / "config.yaml", task="risk"), clips=False).vlm.prompts is None
        )


def test_another_task_has_its_own_prompts(tmp_path: Path) -> None:
    config = TrainConfig(backbone="compose:efficientnet-lite0+smollm2-135m")
    for chosen in (None, prompts_from_settings(None, "action")):
        given = config.model_copy(update={"task": "risk", "vlm": VlmSettings(prompts=chosen)})
        assert resolve_config(given, clips=False).vlm.prompts == prompts_from_settings(None, "risk")
    own = (PromptPair(question="What?", reply="{token}"),)
    assert resolve_config(config.model_copy(update={"vlm": VlmSettings(prompts=own)}), clips=True).vlm.prompts == own
