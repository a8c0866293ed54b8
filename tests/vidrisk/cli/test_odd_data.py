"""Tests of odd or wrong data.

Training warns and names the problem, or refuses the data in one line that tells the user how to proceed.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vidrisk.runtimes.contract.errors import EXIT_ERROR, EXIT_OK

Cli = Callable[..., Any]
COLOURS = {"red": (170, 40, 40), "green": (40, 170, 40), "blue": (40, 40, 170)}


def write_photo(path: Path, rgb: tuple[int, int, int], seed: int, side: int = 32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-30, 30, (side, side, 3))
    Image.fromarray(np.clip(np.array(rgb) + noise, 0, 255).astype(np.uint8)).save(path)


def csv_of(path: Path, rows: list[tuple[str, ...]], *header: str) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header or ("path", "label"), *rows])
    return path


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a folder with 24 photos: 15 to train, 6 to validate, 3 to test."""
    for number in range(24):
        write_photo(tmp_path / "site" / f"{number:02}.png", list(COLOURS.values())[number % 3], number)
    return tmp_path / "site"


def rows_of(site: Path) -> list[tuple[str, str, str]]:
    return [
        (path.name, list(COLOURS)[number % 3], "train" if number < 15 else "val" if number < 21 else "test")
        for number, path in enumerate(sorted(site.glob("??.png")))
    ]


@pytest.fixture
def quick(backbone_folder: Callable[[str], Path]) -> tuple[str, ...]:
    settings = ("optim.epochs=1", "lora.last_blocks=0", "precision=fp32")
    return ("--backbone", str(backbone_folder("vit")), *(word for each in settings for word in ("--set", each)))


def assert_refused(end: Any, *said: str) -> None:
    assert end.code == EXIT_ERROR and end.stderr.startswith("error: ") and end.stderr.count("\n") == 1, end
    assert all(words in end.stderr for words in said), end.stderr


@pytest.mark.slow(minutes=0.3)
def test_five_hundred_classes_of_one_sample_each(
    cli: Cli, quick: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    for number in range(500):
        write_photo(tmp_path / "site" / f"class{number:03}" / "1.png", tuple(rng.integers(30, 220, 3).tolist()), number)
    end = cli("train", tmp_path / "site", "-o", tmp_path / "run", *quick)
    assert end.code == EXIT_OK, end
    assert "too few samples of 500 of 500 action classes: 'class000' has 1" in caplog.text
    assert "no sample is in the val split" in caplog.text and "Traceback" not in caplog.text
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["samples"] == {"train": 500}


@pytest.mark.parametrize(("place", "split"), [(20, "val"), (23, "test")])
def test_a_class_that_no_training_sample_has(
    cli: Cli,
    site: Path,
    quick: tuple[str, ...],
    tmp_path: Path,
    place: int,
    split: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = [
        (name, "purple" if number == place else label, of) for number, (name, label, of) in enumerate(rows_of(site))
    ]
    table = csv_of(site / "table.csv", rows, "path", "label", "split")
    assert_refused(
        cli("train", table, "-o", tmp_path / "run", *quick),
        "that no sample of the train split has (1): purple",
        f"{place}.png in {split}",
        "vidrisk data split --force",
    )
    assert not (tmp_path / "run").exists()
    assert cli("data", "split", table, "-o", site / "split.csv", "--force").code == EXIT_OK
    again = cli("train", site / "split.csv", "-o", tmp_path / "run", *quick)
    assert again.code == EXIT_OK and "'purple' has 1" in caplog.text  # every class has a sample in train now


def test_one_content_with_two_labels(
    cli: Cli, site: Path, quick: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(site / "00.png", site / "copy.png")
    table = csv_of(site / "table.csv", [*(row[:2] for row in rows_of(site)), ("copy.png", "green")])
    end = cli("train", table, "-o", tmp_path / "run", *quick)
    assert end.code == EXIT_OK and "contents that have two labels (1): 00.png (red) = copy.png (green)" in caplog.text
    assert_refused(
        cli("train", table, "-o", tmp_path / "strict", "--strict", *quick), "two labels (1)", "remove the copies"
    )


def test_one_path_twice(
    cli: Cli, site: Path, quick: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [row[:2] for row in rows_of(site)]
    with_two_labels = csv_of(site / "two.csv", [*rows, ("00.png", "green")])
    assert_refused(
        cli("train", with_two_labels, "-o", tmp_path / "run", *quick), "00.png twice", "line 2 and line 26", "keep one"
    )
    same_again = csv_of(site / "same.csv", [*rows, ("00.png", "red")])
    end = cli("data", "split", same_again, "-o", site / "split.csv", "--json")
    assert json.loads(end.stdout)["samples"] == 24 and "repeated rows left out: 1" in caplog.text


@pytest.mark.parametrize(("one", "other"), [("red", "Red"), ("red wall", "red  wall"), ("red wall", "redwall")])
def test_labels_that_differ_in_case_or_spaces_alone(
    cli: Cli, site: Path, one: str, other: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        (name, (one if number % 2 else other) if label == "red" else label)
        for number, (name, label, _) in enumerate(rows_of(site))
    ]
    end = cli("data", "split", csv_of(site / "table.csv", rows), "-o", site / "split.csv")
    assert end.code == EXIT_OK and f"{one!r} (4)" in caplog.text and f"{other!r} (4)" in caplog.text
    assert "write each class in one way" in caplog.text
    assert_refused(
        cli("data", "split", site / "table.csv", "-o", site / "strict.csv", "--strict"), "differ only in case or spaces"
    )


def test_spaces_around_a_label_are_no_part_of_it(cli: Cli, site: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [(name, f" {label} " if number % 2 else label) for number, (name, label, _) in enumerate(rows_of(site))]
    end = cli("data", "split", csv_of(site / "table.csv", rows), "-o", site / "split.csv", "--json")
    assert (end.code, caplog.text) == (EXIT_OK, "") and set(json.loads(end.stdout)["counts"]["action"]) == set(COLOURS)


def test_one_class(cli: Cli, site: Path, quick: tuple[str, ...], tmp_path: Path) -> None:
    table = csv_of(site / "one.csv", [(name, "red") for name, _, _ in rows_of(site)])
    for command in (
        ("train", table, "-o", tmp_path / "run", *quick),
        ("data", "split", table, "-o", site / "split.csv"),
    ):
        assert_refused(cli(*command), "has only one action label (red)", "add examples of another class")
    rows = [(name, "red" if split == "train" else label, split) for name, label, split in rows_of(site)]
    table = csv_of(site / "train.csv", rows, "path", "label", "split")
    assert_refused(
        cli("train", table, "-o", tmp_path / "run", *quick),
        "the train split has one action label only (red)",
        "correct the split column",
    )


@pytest.mark.slow(minutes=1.3)
def test_one_sample_beside_five_thousand(
    cli: Cli, quick: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(5000):
        write_photo(tmp_path / "site" / "sound" / f"{number:04}.png", (110, 110, 110), number, side=8)
    write_photo(tmp_path / "site" / "rusty" / "1.png", (170, 90, 40), 0, side=8)
    end = cli("data", "split", tmp_path / "site", "-o", tmp_path / "site" / "split.csv", "--json")
    assert json.loads(end.stdout)["counts"]["action"]["rusty"] == {"train": 1, "val": 0, "test": 0}
    end = cli("train", tmp_path / "site" / "split.csv", "-o", tmp_path / "run", *quick, "--json")
    assert end.code == EXIT_OK, end
    assert "'rusty' has 1; 'sound' has 4" in caplog.text and "Traceback" not in caplog.text
    test = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["action"]
    assert test["top1"] == 1.0 and test["ece"] < 0.01
