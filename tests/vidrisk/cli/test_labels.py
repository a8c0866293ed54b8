"""Tests of ``data suspects``, ``data curve`` and ``compare`` with two models.

The commands tell which labels are wrong, how much data is enough, and which model is better.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Cli = Callable[..., Any]
COLOURS = {"red": (200, 40, 40), "green": (30, 160, 40), "blue": (40, 40, 200)}
PHOTOS, TURNED = 90, 5
SMALL = ("--set", "pixel.height=64", "--set", "pixel.width=64")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with noisy photos of three colours, five of them with the label of another colour.

    ``m.csv`` lists the labels with these mistakes, ``true.csv`` without them.
    """
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    rows: dict[str, list[str]] = {"m": [], "true": []}
    for number in range(PHOTOS):
        name = list(COLOURS)[number % 3]
        pixels = np.clip(np.array(COLOURS[name]) + rng.normal(0, 40, (64, 64, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
        given = list(COLOURS)[(number + 1) % 3] if number < TURNED else name
        rows["m"].append(f"{number}.png,{given},s{number // 6},{('train', 'val', 'test')[number % 5 // 2]}")
        rows["true"].append(f"{number}.png,{name},s{number // 6},{('train', 'val', 'test')[number % 5 // 2]}")
    for name, lines in rows.items():
        (root / f"{name}.csv").write_text("path,label,series,split\n" + "\n".join(lines) + "\n")
    return root


def test_suspects_names_the_labels_that_were_turned(cli: Cli, photos: Path, tmp_path: Path) -> None:
    end = cli(
        "data",
        "suspects",
        photos / "m.csv",
        "-o",
        tmp_path / "s.csv",
        "--gallery",
        tmp_path / "s.png",
        "--most",
        "10",
        "--group-by",
        "series",
        *SMALL,
        "--json",
    )
    assert end.code == 0, end
    with (tmp_path / "s.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == PHOTOS and list(rows[0]) == [
        "path",
        "interval",
        "target",
        "given",
        "likely",
        "margin",
        "suspected",
    ]
    assert {row["path"] for row in rows[:TURNED]} == {f"{number}.png" for number in range(TURNED)}
    assert all(row["likely"] == list(COLOURS)[int(row["path"].removesuffix(".png")) % 3] for row in rows[:TURNED])
    told = json.loads(end.stdout)
    assert told["suspected_share"]["action"] == pytest.approx(TURNED / PHOTOS, abs=0.03)
    assert told["accuracy_of_probes"]["action"] > 0.9
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.height >= 10 * 96
    again = cli("data", "suspects", photos / "m.csv", "-o", tmp_path / "s.csv", *SMALL)
    assert again.code == 1 and "exists already" in again.stderr


def test_curve_tells_what_twice_as_much_would_bring(cli: Cli, photos: Path, tmp_path: Path) -> None:
    end = cli("data", "curve", photos / "true.csv", "-o", tmp_path / "c.json", *SMALL)
    assert end.code == 0, end
    curve = json.loads((tmp_path / "c.json").read_text())["action"]
    sizes = sorted(map(int, curve["scores"]))
    assert (
        len(sizes) >= 3 and sizes[-1] in range(66, 74) and all(len(scores) == 3 for scores in curve["scores"].values())
    )
    low, high = curve["forecast"]["interval"]
    assert curve["forecast"]["samples"] == 2 * sizes[-1] and low <= curve["forecast"]["score"] <= high
    assert curve["is_saturated"] and "more of the same will bring little" in end.stdout
    assert (tmp_path / "c-action.png").is_file()


def test_curve_refuses_what_is_too_little(cli: Cli, photos: Path, tmp_path: Path) -> None:
    (photos / "few.csv").write_text("path,label\n" + "".join(f"{n}.png,{list(COLOURS)[n % 3]}\n" for n in range(12)))
    end = cli("data", "curve", photos / "few.csv", *SMALL)
    assert end.code == 1 and "12 samples are labelled for action, and a fold leaves only 9 for training" in end.stderr
    assert "allowed: 3 sizes of 20 or more" in end.stderr and len(end.stderr.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def runs(cli: Cli, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two runs: first of a model that has not learnt, then of a model that has."""
    root = tmp_path_factory.mktemp("runs")
    for name, start in (("good", "probe"), ("bad", "zero")):
        end = cli(
            "train",
            photos / "true.csv",
            "-o",
            root / name,
            *SMALL,
            "--set",
            "lora.last_blocks=0",
            "--set",
            "optim.epochs=1",
            "--set",
            f"head.start={start}",
            "--set",
            "optim.head_lr=0",
        )
        assert end.code == 0, end
    return root / "bad", root / "good"


def test_compare_says_which_model_is_better(cli: Cli, photos: Path, runs: tuple[Path, Path], tmp_path: Path) -> None:
    end = cli("compare", *runs, photos / "true.csv", "-o", tmp_path / "c.json")
    assert end.code == 0 and "action: B is better" in end.stdout, end
    assert "18 samples: 18 of the test split\n" in end.stdout
    told = json.loads((tmp_path / "c.json").read_text())
    right = told["figures"]["action"][0]
    assert (right["verdict"], right["test"], told["samples"]) == ("better", "McNemar", 18)
    assert told["splits"] == {"test": 18}  # the default
    assert len(told["changed"]["action"]) == round(18 * (right["second"] - right["first"]))
    assert {row["label"] for row in told["per_class"]["action"]} == set(COLOURS)
    same = cli("compare", runs[1], runs[1], photos / "true.csv", "--split", "all")
    assert (
        f"{PHOTOS} samples: 36 of the train split" in same.stdout and "the model may have learnt from\n" in same.stdout
    )
    assert "undecided" in same.stdout and "more samples would not help" in same.stdout
    grouped = cli("compare", *runs, photos / "true.csv", "--split", "test", "--group-by", "series", "--json")
    assert json.loads(grouped.stdout)["figures"]["action"][0]["test"] == "bootstrap"


def test_models_of_different_questions_are_refused(
    cli: Cli, photos: Path, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    (photos / "two.csv").write_text("path,label\n" + "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(30)))
    assert (
        cli(
            "train",
            photos / "two.csv",
            "-o",
            tmp_path / "r",
            *SMALL,
            "--set",
            "lora.last_blocks=0",
            "--set",
            "optim.epochs=1",
        ).code
        == 0
    )
    end = cli("compare", runs[0], tmp_path / "r", photos / "true.csv")
    assert end.code == 1 and "the models answer different questions (action: 3 labels; action: 2 labels)" in end.stderr


def test_options_of_reports_mean_nothing_to_models(cli: Cli, photos: Path, runs: tuple[Path, Path]) -> None:
    end = cli("compare", *runs, photos / "true.csv", "--no-page")
    assert end.code == 2 and "--no-page with two models; fix: leave --no-page out" in end.stderr
    end = cli("compare", photos, "-o", "x.json")
    assert end.code == 2 and "--output without two models and data" in end.stderr
