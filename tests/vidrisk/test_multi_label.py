"""Tests of photos with any number of coloured squares, and with a level that some of them lack.

One model is trained on them, exported and used for predictions.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vidrisk.data import load_table
from vidrisk.inference.predictions import read_predictions
from vidrisk.models.run import Run
from vidrisk.runtimes import Bundle

SQUARES = {"blue": (40, 40, 220), "green": (30, 190, 40), "red": (220, 40, 40)}
PHOTOS = 160
Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with photos and ``m.jsonl``, which lists the colours of the squares in each photo.

    For two of three photos, it also states whether there are many squares.
    """
    root = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(PHOTOS):
        photo = rng.integers(90, 160, (96, 96, 3)).astype(np.uint8)
        colours = [name for name in SQUARES if rng.random() < 0.5]
        for place, name in zip(rng.permutation(4), colours, strict=False):
            y, x = 48 * (place // 2), 48 * (place % 2)
            photo[y + 4 : y + 44, x + 4 : x + 44] = SQUARES[name]
        Image.fromarray(photo).save(root / f"{number}.png")
        level = {} if number % 3 == 2 else {"risk_level": "high" if len(colours) > 1 else "low"}
        split = ("train", "train", "val", "test")[number % 4]
        rows.append({"path": f"{number}.png", "defect_class": colours, "split": split, **level})
    (root / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="module")
def run(cli: Cli, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "squares"
    settings = (
        "pixel.height=96",
        "pixel.width=96",
        "lora.last_blocks=0",
        "augment=[]",
        "optim.epochs=30",
        "optim.head_lr=0.01",
    )
    end = cli(
        "train",
        folder / "m.jsonl",
        "-o",
        out,
        "--task",
        "risk",
        *(word for each in settings for word in ("--set", each)),
    )
    assert end.code == 0, end
    return out


@pytest.fixture(scope="module")
def bundle(cli: Cli, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "squares.bundle"
    end = cli("export", run, "-o", out, "--int8", "--max-drop", "5", "--search-s", "10")
    assert end.code == 0, end
    return out


def test_training_tells_how_well_every_label_is_found(run: Path, folder: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())["test"]
    assert metrics["defect"]["mean_average_precision"] > 0.9 and metrics["defect"]["n"] == PHOTOS // 4
    assert (
        metrics["level"]["n"]
        == sum("level" in sample.labels for sample in load_table(folder / "m.jsonl", "risk").of_split("test").samples)
        < PHOTOS // 4
    )
    defect, level = Run.open(run).contract.targets
    assert (defect.labels, defect.multi_label, level.multi_label) == (tuple(SQUARES), True, False)


def test_the_run_knows_its_labels_and_those_that_it_lacks(run: Path, folder: Path) -> None:
    known = {sample.name: sample.labels for sample in load_table(folder / "m.jsonl", "risk").samples}
    assert {sample.name: sample.labels for sample in Run.open(run).read_split().samples} == known


def test_the_gate_judges_the_precision_of_all_labels(bundle: Path) -> None:
    gate = json.loads((bundle / "gate.json").read_text())
    for hop in gate["hops"]:
        defect, level = hop["changes"]
        assert defect["map_after"] > 0.9 and defect["drop_points"] == pytest.approx(
            100 * (defect["map_before"] - defect["map_after"]), abs=1e-6
        )
        assert level["map_after"] is None
    assert "mAP" in (bundle / "gate.html").read_text()
    variant = Bundle.open(bundle).manifest.variants["fp32"]
    assert set(variant.decision) == {"defect"} and all(0 < value < 1 for value in variant.decision["defect"].values())
    assert "any number" in variant.no_threshold["defect"] and "level" in variant.threshold | variant.no_threshold


@pytest.mark.parametrize("variant", ["fp32", "auto"])
def test_predictions_name_every_label_that_holds(
    cli: Cli, bundle: Path, folder: Path, tmp_path: Path, variant: str
) -> None:
    end = cli("infer", bundle, folder, "-o", tmp_path / "out", "--variant", variant)
    assert end.code == 0, end
    truth = {sample.name: sample.labels["defect"] for sample in load_table(folder / "m.jsonl", "risk").samples}
    found = list(read_predictions(tmp_path / "out"))
    right = [set(each.labels["defect"]) == set(truth[Path(each.path).name]) for each in found]
    assert len(found) == PHOTOS and np.mean(right) > 0.85
    for each in found:
        assert each.label == (each.labels["defect"][0] if each.labels["defect"] else "none") and 0 <= each.score <= 1
        assert each.level in ("low", "high")
    counts = json.loads((tmp_path / "out" / "summary.json").read_text())["labels"]["defect"]
    assert counts == {name: sum(name in each.labels["defect"] for each in found) for name in SQUARES}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "red" in page and "none" in page


def test_evaluation_scores_every_label_at_its_threshold(cli: Cli, bundle: Path, folder: Path, tmp_path: Path) -> None:
    end = cli("eval", bundle, folder / "m.jsonl", "--split", "test", "-o", tmp_path / "e.json")
    assert end.code == 0, end
    found = json.loads((tmp_path / "e.json").read_text())
    assert found["metrics"]["defect"]["mean_average_precision"] > 0.9 and set(found["certainty"]) == {"level"}
    thresholds = dict(zip(SQUARES, found["metrics"]["defect"]["thresholds"], strict=True))
    assert thresholds in [variant.decision["defect"] for variant in Bundle.open(bundle).manifest.variants.values()]


def test_training_is_told_that_cells_hold_several_labels(cli: Cli, folder: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (folder / "m.jsonl").read_text().splitlines()]
    (folder / "cells.csv").write_text(
        "path,defect_class,split\n"
        + "".join(f"{row['path']},{';'.join(row['defect_class']) or '[]'},{row['split']}\n" for row in rows)
    )
    settings = (
        "--set",
        "pixel.height=32",
        "--set",
        "pixel.width=32",
        "--set",
        "lora.last_blocks=0",
        "--set",
        "optim.epochs=1",
    )
    refused = cli("train", folder / "cells.csv", "-o", tmp_path / "run", "--task", "risk", *settings)
    assert refused.code == 1 and "with a list as defect label" in refused.stderr and "--multi-label" in refused.stderr
    end = cli("train", folder / "cells.csv", "-o", tmp_path / "run", "--task", "risk", "--multi-label", *settings)
    assert end.code == 0, end
    run = Run.open(tmp_path / "run")
    assert run.config.multi_label and run.contract.targets[0].multi_label


def test_data_with_one_label_is_told_from_several(cli: Cli, bundle: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "one.csv").write_text(
        "path,defect_class,risk_level\n0.png,red,low\n1.png,blue,high\n2.png,red;blue,high\n"
    )
    end = cli("eval", bundle, folder / "one.csv", "-o", tmp_path / "e.json")
    assert end.code == 0, end  # a model of several labels reads a manifest so
    (folder / "two.csv").write_text('path,defect_class\n0.png,"[""red"", ""blue""]"\n1.png,"[""blue""]"\n')
    end = cli("train", folder / "two.csv", "-o", tmp_path / "run", "--task", "action")
    assert end.code == 1 and "no column for the action" in end.stderr and len(end.stderr.strip().splitlines()) == 1


def test_the_bundle_answers_here_as_it_did_at_export(cli: Cli, bundle: Path) -> None:
    assert cli("verify", bundle).code == 0


@pytest.fixture(scope="module")
def mixed(cli: Cli, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that predicts one action and any number of defects; write ``mixed.csv``.

    The run has data of its own, with commas in label names.
    """
    rows = [json.loads(line) for line in (folder / "m.jsonl").read_text().splitlines()]
    lines = [
        f'{row["path"]},"{"many, or all" if len(row["defect_class"]) > 1 else "few"}",'
        f"{';'.join(row['defect_class']) or '[]'},{row['split']},{row.get('risk_level', '')}"
        for row in rows
    ]
    (folder / "mixed.csv").write_text("path,action,defect_class,split,risk_level\n" + "\n".join(lines) + "\n")
    for row in rows:
        row["action"] = "many, or all" if len(row["defect_class"]) > 1 else "few"
    (folder / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path_factory.mktemp("runs") / "mixed"
    settings = (
        "pixel.height=64",
        "pixel.width=64",
        "lora.last_blocks=0",
        "augment=[]",
        "optim.epochs=2",
        "optim.head_lr=0.01",
    )
    quick = (word for each in settings for word in ("--set", each))
    end = cli("train", folder / "mixed.jsonl", "-o", out, "--task", "action+risk", *quick)
    assert end.code == 0, end
    return out


def test_one_action_and_any_number_of_defects_are_one_model(
    cli: Cli, mixed: Path, folder: Path, tmp_path: Path
) -> None:
    targets = {target.name: target for target in Run.open(mixed).contract.targets}
    assert targets["action"].labels == ("few", "many, or all") and not targets["action"].multi_label
    assert targets["defect"].multi_label and set(targets) == {"action", "defect", "level"}
    end = cli("eval", mixed, folder / "mixed.csv", "--split", "test", "-o", tmp_path / "e.json")
    assert end.code == 0, end
    metrics = json.loads((tmp_path / "e.json").read_text())["metrics"]
    assert metrics["action"]["n"] == metrics["defect"]["n"] == PHOTOS // 4 > metrics["level"]["n"]
    assert "top1" in metrics["action"] and "mean_average_precision" in metrics["defect"]
    end = cli("compare", mixed, mixed, folder / "mixed.csv", "--split", "test", "--json")
    assert end.code == 0, end
    assert {name: each[0]["samples"] for name, each in json.loads(end.stdout)["figures"].items()} == {
        name: each["n"] for name, each in metrics.items()
    }


def test_data_of_a_mixed_model_are_read_target_by_target(folder: Path, mixed: Path) -> None:
    table = load_table(folder / "mixed.csv", "action+risk", multi_label=Run.open(mixed).contract.multi_targets)
    assert table.multi_targets == {"defect"} and table.labels_of("action") == ("few", "many, or all")
    assert load_table(folder / "mixed.csv", "action+risk", multi_label=True).labels_of("action") == (
        "few",
        "many",
        "or all",
    )
