"""A CVAT task, a Label Studio project, a COCO file and a TFRecord become one manifest and one model.

The predictions of the model become labels to be corrected.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vidrisk.data import Sample, Table, load_table, write_table
from vidrisk.data.data_sets import import_data, write_data_set
from vidrisk.inference.predictions import read_predictions
from vidrisk.runtimes.contract.errors import DataError

Cli = Callable[..., Any]
COLOURS = {"crack": (200, 40, 40), "rust": (30, 160, 40), "sound": (40, 40, 200)}
TOOLS = {"cvat-images": "cvat.xml", "label-studio": "studio.json", "coco": "coco.json", "tfrecord": "photos.tfrecord"}
SMALL = (
    "--set",
    "pixel.height=64",
    "--set",
    "pixel.width=64",
    "--set",
    "lora.last_blocks=0",
    "--set",
    "optim.epochs=8",
    "--set",
    "optim.head_lr=0.01",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with labelled photos for each tool, and with new photos.

    Each ``TOOL/`` has 18 photos of three colours and an annotation file of that tool. ``new/`` has photos without
    labels.
    """
    root = tmp_path_factory.mktemp("site")
    rng = np.random.default_rng(0)

    def photo(path: Path, name: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(np.array(COLOURS[name]) + rng.normal(0, 30, (64, 64, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    for tool, file in TOOLS.items():
        samples = []
        for number in range(18):
            name = list(COLOURS)[number % 3]
            path = photo(root / tool / "photos" / f"{tool}{number}.png", name)
            samples.append(Sample(path, f"photos/{path.name}", {"defect": name}))
        write_data_set(Table(root / tool, "risk", tuple(samples)), root / tool / file, name=tool)
    for number in range(6):
        photo(root / "new" / f"n{number}.png", list(COLOURS)[number % 3])
    return root


@pytest.fixture(scope="module")
def manifest(cli: Cli, folder: Path) -> Path:
    """Import the files of the four tools with the commands and return one manifest of all samples."""
    samples: list[Sample] = []
    for tool, file in TOOLS.items():
        end = cli("data", "import", folder / tool / file, "-o", folder / f"{tool}.csv", "--task", "risk")
        assert end.code == 0, (tool, end)
        table = load_table(folder / f"{tool}.csv", "risk")
        assert len(table) == 18 and table.label_counts("defect") == dict.fromkeys(COLOURS, 6), tool
        samples += [replace(sample, extra={}) for sample in table.samples]
    write_table(Table(folder, "risk", tuple(samples)), folder / "all.csv")
    return folder / "all.csv"


@pytest.fixture(scope="module")
def out(cli: Cli, folder: Path, manifest: Path) -> Path:
    """Train a model on the whole manifest and return its output for the new photos."""
    assert cli("train", manifest, "-o", folder / "run", "--task", "risk", *SMALL).code == 0
    assert cli("infer", folder / "run", folder / "new", "-o", folder / "out").code == 0
    return folder / "out"


def test_one_model_learns_from_all_four(cli: Cli, folder: Path, out: Path) -> None:
    end = cli("eval", folder / "run", folder / "all.csv", "-o", folder / "e.json")
    assert end.code == 0, end
    found = json.loads((folder / "e.json").read_text())
    assert found["metrics"]["defect"]["top1"] == 1.0
    assert {row["source"]: row["n"] for row in found["by_source"]["defect"]}["coco/photos"] == 18


@pytest.mark.parametrize(
    ("tool", "name"), [("label-studio", "pre.json"), ("cvat-images", "pre.xml"), ("coco", "pre-coco.json")]
)
def test_predictions_go_back_as_labels_to_be_corrected(cli: Cli, folder: Path, out: Path, tool: str, name: str) -> None:
    end = cli("data", "convert", out, "--to", tool, "-o", folder / "new" / name, "--media", folder / "new")
    assert end.code == 0, end
    text = (folder / "new" / name).read_text()
    predicted = {Path(each.path).name: each for each in read_predictions(out)}
    if tool == "label-studio":
        tasks = json.loads(text)
        assert len(tasks) == 6 and not any(task.get("annotations") for task in tasks)
        for task in tasks:
            (prediction,) = task["predictions"]
            own = next(each for file, each in predicted.items() if file in json.dumps(task["data"]))
            assert prediction["model_version"] and prediction["score"] == pytest.approx(own.score, abs=1e-5)
            assert own.label in json.dumps(prediction["result"])
    else:
        if tool == "cvat-images":
            with pytest.raises(DataError, match="CVAT has not exported this file: they were not reviewed: 6"):
                import_data(folder / "new" / name, name=tool, task="risk")
            (folder / "new" / name).write_text(
                text.replace("</meta>", "<dumped>now</dumped></meta>")
            )  # CVAT exports it
        read = import_data(folder / "new" / name, name=tool, task="risk").table
        assert any(note.endswith("taken as they are: 6") for note in read.notes)
        assert {sample.name: sample.labels["defect"] for sample in read.samples} == {
            file: each.label for file, each in predicted.items()
        }
    if tool == "coco":
        assert all(0 < each["score"] <= 1 for each in json.loads(text)["annotations"])


def test_options_that_mean_nothing_are_refused(cli: Cli, folder: Path, out: Path) -> None:
    end = cli("data", "convert", out, "--to", "coco", "-o", folder / "x.json", "--multi-label")
    assert end.code == 2 and "--multi-label of predictions" in end.stderr
    end = cli(
        "data",
        "convert",
        folder / "all.csv",
        "--to",
        "coco",
        "--task",
        "risk",
        "-o",
        folder / "x.json",
        "--media",
        folder,
    )
    assert end.code == 2 and "--media without predictions" in end.stderr
    end = cli(
        "data",
        "convert",
        folder / "all.csv",
        "--to",
        "coco",
        "--task",
        "risk",
        "-o",
        folder / "x.json",
        "--ratios",
        "1:1:1",
    )
    assert end.code == 2 and "--ratios with --to coco" in end.stderr


def test_predictions_go_into_a_tfrecord(cli: Cli, folder: Path, out: Path, tmp_path: Path) -> None:
    file = tmp_path / "pre.tfrecord"
    end = cli("data", "convert", out, "--to", "tfrecord", "-o", file, "--media", folder / "new")
    assert end.code == 0, end
    end = cli("data", "import", file, "-o", tmp_path / "pre.csv", "--task", "risk")
    assert end.code == 0, end
    read = load_table(tmp_path / "pre.csv", "risk")
    predicted = {Path(each.path).name: each.label for each in read_predictions(out)}
    assert {Path(sample.name).name: sample.labels["defect"] for sample in read.samples} == predicted
