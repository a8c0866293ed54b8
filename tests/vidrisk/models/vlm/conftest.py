"""Small saved vision-language models, and runs of a few steps on them, each created once per session."""

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
    """Return a function that saves a model by its model_type and the options of ``save_qwen``.

    It returns the folder, which tests must not change.
    """

    @functools.cache
    def make(model_type: str, **options: Any) -> Path:
        return save_qwen(tmp_path_factory.mktemp(model_type), model_type, **options)

    return make


@pytest.fixture(scope="session")
def language_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that saves a causal language model by its class and the options of ``save_language_model``.

    It returns the folder, which tests must not change.
    """

    @functools.cache
    def make(model_class: str = "LlamaForCausalLM", **options: Any) -> Path:
        return save_language_model(tmp_path_factory.mktemp("language"), model_class, **options)

    return make


@pytest.fixture(scope="session")
def table(clip_folder: Path) -> Table:
    """Return a table of 24 clips in three colours."""
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
    """Return a function that trains a named case for a few steps.

    The function also takes further settings and a run to start from.
    """

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
    """Return a function that returns the run of a named case, which tests must not change."""
    return functools.cache(train)
