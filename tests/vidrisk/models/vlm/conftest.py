"""Saved small vision-language models, and runs of a few steps on them, each made once per session."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backbones import EMBEDDED
from vlm_runs import CASES, COMMON, PHOTOS, SIZE, Trained, write_photos
from vlms import save_language_model, save_qwen

from vidrisk.data import Table, load_table
from vidrisk.models.config import config_from_options
from vidrisk.models.run import Run
from vidrisk.train.train import train_run


@pytest.fixture(scope="session")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """model_type and options of ``save_qwen`` → a folder; not to be changed."""

    @functools.cache
    def make(model_type: str, **options: Any) -> Path:
        return save_qwen(tmp_path_factory.mktemp(model_type), model_type, **options)

    return make


@pytest.fixture(scope="session")
def language_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Class of a causal language model and options of ``save_language_model`` → a folder; not to be changed."""

    @functools.cache
    def make(model_class: str = "LlamaForCausalLM", **options: Any) -> Path:
        return save_language_model(tmp_path_factory.mktemp("language"), model_class, **options)

    return make


@pytest.fixture(scope="session")
def table(clip_folder: Path) -> Table:
    """24 clips of three colours."""
    return load_table(clip_folder, "action")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def train(
    table: Table,
    photos: Table,
    qwen_folder: Callable[..., Path],
    language_folder: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Trained]:
    """Name of a case, further settings, and a run to start from → a run of a few steps."""

    def make(case: str, *assignments: str, start: Run | None = None) -> Trained:
        kind, options, settings = {**CASES, **PHOTOS}[case]
        backbone = (
            f"compose:{EMBEDDED}+{language_folder(**options)}"
            if kind == "compose"
            else str(qwen_folder(kind, **options))
        )
        height, width = SIZE[kind]
        size = (f"pixel.height={height}", f"pixel.width={width}")
        given = photos if case in PHOTOS else table
        config = config_from_options(
            None, [*COMMON, *size, *settings, *assignments], backbone=backbone, task=given.task
        )
        saved: list[Any] = []
        with pytest.MonkeyPatch.context() as patch:
            save = Run.save
            patch.setattr(Run, "save", lambda self, model: (saved.append(model), save(self, model)))
            run = train_run(given, config, tmp_path_factory.mktemp("runs") / "run", start=start)
        return Trained(run, saved[0])

    return make


@pytest.fixture(scope="session")
def trained(train: Callable[..., Trained]) -> Callable[[str], Trained]:
    """Name of a case → its run, not to be changed."""
    return functools.cache(train)
