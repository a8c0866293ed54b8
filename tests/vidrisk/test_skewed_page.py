"""Tests of docs/skewed-data.md: its commands run in order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pages import read_commands
from PIL import Image

from vidrisk.models.run import Run

QUICK = (
    "--set",
    "pixel.height=32",
    "--set",
    "pixel.width=32",
    "--set",
    "lora.last_blocks=0",
    "--set",
    "optim.epochs=1",
)


@pytest.mark.page("docs/skewed-data.md")
@pytest.mark.slow(minutes=0.2)
def test_what_the_page_shows_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_line: Callable[..., object]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("site").mkdir()
    rows = ["path,label"]
    for number in range(120):
        label = "rusty" if number % 20 == 0 else "sound"
        noise = np.random.default_rng(number).integers(-20, 20, (32, 32, 3))
        pixels = np.array((170, 90, 40) if label == "rusty" else (110, 110, 110)) + noise
        Image.fromarray(pixels.astype(np.uint8)).save(f"site/{number}.png")
        rows.append(f"{number}.png,{label}")
    Path("site/labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for command in read_commands("docs/skewed-data.md"):
        run_line(command, tmp_path, *(QUICK if " train " in command else ()))
    assert Run.open("runs/site").config.optim.class_weights == "drawn"
    assert json.loads(Path("eval.json").read_text(encoding="utf-8"))["metrics"]["action"]["top1"] == 1.0
