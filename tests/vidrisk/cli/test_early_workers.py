"""``vidrisk infer``: decode processes start before the model is opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import typer
from colour_bundle import write_colour_bundle
from small_media import write_photo
from typer.testing import CliRunner

from vidrisk.cli.infer import infer
from vidrisk.decode.pool import DecodePool
from vidrisk.inference import model

app = typer.Typer()
app.command()(infer)


@pytest.mark.parametrize(
    ("options", "steps"), [([], ["workers for 2", "open"]), (["--feature-cache"], ["open"]), (["--resume"], ["open"])]
)
def test_the_first_workers_start_before_the_model_is_opened(
    options: list[str], steps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_colour_bundle(tmp_path / "colours.bundle").root
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("one", "two"):
        write_photo(photos / f"{name}.png")
    done, open_classifier, warm_up = list[str](), model.open_classifier, DecodePool.warm_up

    def note_opening(*arguments: Any, **chosen: Any) -> Any:
        done.append("open")
        return open_classifier(*arguments, **chosen)

    def note_warm_up(pool: DecodePool, workers: int = 1) -> None:
        done.append(f"workers for {workers}")
        warm_up(pool, workers)

    monkeypatch.setenv("VIDRISK_CACHE", os.fspath(tmp_path / "cache"))
    monkeypatch.setattr(model, "open_classifier", note_opening)
    monkeypatch.setattr(DecodePool, "warm_up", note_warm_up)
    arguments = [bundle, photos, "-o", tmp_path / "out", "--no-report", *options]
    result = CliRunner().invoke(app, [os.fspath(argument) for argument in arguments])
    assert (result.exit_code, done) == (0, steps), result.output
