"""Tests of docs/multi-label.md, labels.md, labelling-round.md, training.md and tuning.md.

The commands that they show run, and their statements are true.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pages import read_blocks
from PIL import Image

from vidrisk.data import Sample, Table, load_table
from vidrisk.data.data_sets import write_data_set
from vidrisk.inference.predictions import read_predictions
from vidrisk.models.config import TrainConfig
from vidrisk.models.run import Run
from vidrisk.runtimes import Bundle
from vidrisk.train.tune_space import VALUES

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = ("multi-label", "labels", "labelling-round", "training", "tuning")
RunLine = Callable[..., object]
COLOURS = {"crack": (200, 40, 40), "rust": (30, 160, 40), "wet": (40, 40, 200)}
SMALL = ("--set", "pixel.height=96", "--set", "pixel.width=96")
QUICK = {
    "train": (
        *SMALL,
        *(
            word
            for each in ("lora.last_blocks=0", "augment=[]", "optim.epochs=30", "optim.head_lr=0.01")
            for word in ("--set", each)
        ),
    ),
    "export": ("--search-s", "5"),
    "suspects": SMALL,
    "curve": SMALL,
}


def text_of(page: str) -> str:
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


def run_page(page: str, folder: Path, run_line: RunLine, *more: str) -> None:
    """Run the commands and the Python blocks of a page in order; add ``more`` to each training."""
    for block in read_blocks(f"docs/{page}.md"):
        if block.language == "python":
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                block.execute({})
            continue
        assert block.language == "console"
        for command in block.commands:
            words = command.split()
            quick = QUICK.get(words[2] if words[1] == "data" else words[1], ())
            run_line(command, folder, *quick, *(more if words[1] == "train" else ()))


def square(path: Path, names: list[str], rng: np.random.Generator) -> None:
    """Write a grey photo with one square per name, in the colour of that name."""
    pixels = rng.integers(90, 160, (96, 96, 3)).astype(np.uint8)
    for place, name in zip(rng.permutation(4), names, strict=False):
        y, x = 48 * (place // 2), 48 * (place % 2)
        pixels[y + 4 : y + 44, x + 4 : x + 44] = COLOURS[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.mark.page("docs/multi-label.md")
def test_several_labels(tmp_path: Path, run_line: RunLine) -> None:
    rng = np.random.default_rng(0)
    rows = ["path,defect_class,risk_level"]
    for number in range(160):
        names = [name for name in COLOURS if rng.random() < 0.5]
        square(tmp_path / "site" / f"{number}.png", names, rng)
        level = "" if number % 4 == 3 else "high" if len(names) > 1 else "low"
        rows.append(f"{number}.png,{'' if number % 10 == 9 and level else ';'.join(names) or '[]'},{level}")
    (tmp_path / "site" / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    square(tmp_path / "new" / "both.png", ["rust", "crack"], rng)
    square(tmp_path / "new" / "nothing.png", [], rng)
    run_page("multi-label", tmp_path, run_line)
    table = load_table(tmp_path / "site" / "split.csv", "risk")
    assert table.multi_targets == {"defect"} and not table.is_labelled_for_all() and len(table) == 160
    variants = Bundle.open(tmp_path / "site.bundle").manifest.variants.values()
    assert all(set(variant.decision["defect"]) == set(COLOURS) for variant in variants)
    found = {Path(each.path).name: each for each in read_predictions(tmp_path / "out")}
    assert set(found["both.png"].labels["defect"]) == {"crack", "rust"}
    assert (found["nothing.png"].labels, found["nothing.png"].label) == ({"defect": []}, "none")
    told = json.loads((tmp_path / "eval.json").read_text())["metrics"]["defect"]
    assert told["n"] == sum("defect" in sample.labels for sample in table.of_split("test").samples)
    assert (
        set(re.findall(r"^\| `(\w+)` \|", text_of("multi-label"), re.MULTILINE)) <= set(told) and told["macro_f1"] > 0.6
    )


def colour(path: Path, name: str, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.clip(np.array(COLOURS[name]) + rng.normal(0, 40, (96, 96, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.mark.page("docs/labels.md")
def test_wrong_labels_a_curve_and_two_models(tmp_path: Path, run_line: RunLine) -> None:
    rng = np.random.default_rng(0)
    lines: dict[str, list[str]] = {"labels": [], "old": []}
    for number in range(90):
        name = list(COLOURS)[number % 3]
        colour(tmp_path / "site" / f"{number}.png", name, rng)
        split = ("train", "val", "test")[number // 6 % 5 // 2]
        turned = list(COLOURS)[(number + 1) % 3]
        lines["labels"].append(f"{number}.png,{turned if number in (0, 31) else name},{number // 6},{split}")
        lines["old"].append(f"{number}.png,{turned if split == 'train' else name},{number // 6},{split}")
    for table, rows in lines.items():
        (tmp_path / "site" / f"{table}.csv").write_text("path,defect_class,house,split\n" + "\n".join(rows) + "\n")
    run_page("labels", tmp_path, run_line)
    with (tmp_path / "suspects.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"] for row in rows[:2]} == {"0.png", "31.png"} and (tmp_path / "suspects.png").is_file()
    said = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", text_of("labels"), re.MULTILINE))))
    compared = json.loads((tmp_path / "compare.json").read_text())
    (right, *_) = compared["figures"]["defect"]
    scored = json.loads((tmp_path / "eval.json").read_text(encoding="utf-8"))
    assert scored["splits"] == {"test": 18}
    assert scored["views"]["count"] == 2 and scored["views"]["one_view"]["defect"]["n"] == 18
    page = (tmp_path / "eval-errors.html").read_text(encoding="utf-8")
    assert page.count('<li class="error">') == len(scored["worst_errors"]["defect"])
    assert said - set(rows[0]) <= {right["measure"], "top1"} and right["verdict"] == "better" and right["groups"] == 3
    assert (
        right["second"] > right["first"] and "samples_to_decide" in right and {"per_class", "changed"} <= set(compared)
    )
    curve = json.loads((tmp_path / "curve.json").read_text())["defect"]
    assert {"scores", "forecast", "is_saturated"} <= set(curve) and len(curve["forecast"]["interval"]) == 2


@pytest.mark.page("docs/labelling-round.md")
def test_a_round_of_labelling(tmp_path: Path, run_line: RunLine) -> None:
    rng = np.random.default_rng(0)
    files = {
        "cvat/annotations.xml": "cvat-images",
        "studio/export.json": "label-studio",
        "coco/instances.json": "coco",
        "records/photos.tfrecord": "tfrecord",
    }
    for place, (file, name) in enumerate(files.items()):
        root, samples = (tmp_path / "site" / file).parent, []
        for number in range(18):
            label = list(COLOURS)[number % 3]
            path = root / "photos" / f"{place}-{number}.png"
            colour(path, label, rng)
            samples.append(Sample(path, f"photos/{path.name}", {"defect": label}))
        write_data_set(Table(root, "risk", tuple(samples)), tmp_path / "site" / file, name=name)
    for number in range(6):
        colour(tmp_path / "new" / f"n{number}.png", list(COLOURS)[number % 3], rng)

    def run_after_export(command: str, *rest: object) -> object:
        """Run a command; before it imports the file for CVAT again, mark the file as exported without changes."""
        path = tmp_path / "new" / "annotations.xml"
        if command.startswith("vidrisk data import new/"):
            path.write_text(path.read_text("utf-8").replace("</meta>", "<dumped>now</dumped></meta>"), "utf-8")
        return run_line(command, *rest)

    run_page("labelling-round", tmp_path, run_after_export)
    assert len(load_table(tmp_path / "site" / "all.csv", "risk")) == 72
    old, second = load_table(tmp_path / "site" / "split.csv", "risk"), load_table(tmp_path / "second.csv", "risk")
    assert len(second) == 78 and len(second.of_split("train")) == len(old.of_split("train")) + 6
    assert [s.path for s in second.of_split("test").samples] == [s.path for s in old.of_split("test").samples]
    predicted = {Path(each.path).name: each.label for each in read_predictions(tmp_path / "out")}
    assert {s.path.name: s.labels["defect"] for s in second.samples if s.path.name.startswith("n")} == predicted
    assert all(task["predictions"] for task in json.loads((tmp_path / "new" / "tasks.json").read_text()))
    assert json.loads((tmp_path / "compare.json").read_text())["samples"] == len(old.of_split("test"))
    assert Run.open(tmp_path / "runs" / "second").contract.targets[0].labels == tuple(COLOURS)


@pytest.mark.page("docs/tuning.md")
@pytest.mark.slow(minutes=1)
def test_settings_are_searched(tmp_path: Path, run_line: RunLine) -> None:
    rng = np.random.default_rng(0)
    rows = ["path,defect_class,split"]
    for number in range(15):
        name = list(COLOURS)[number % 3]
        colour(tmp_path / "site" / f"{number}.png", name, rng)
        rows.append(f"{number}.png,{name},{('train', 'train', 'train', 'val', 'test')[number // 3]}")
    (tmp_path / "site" / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    quick = ("--set", "optim.epochs=3", "--set", "optim.batch_size=4")
    run_page("tuning", tmp_path, run_line, *quick)
    search = json.loads((tmp_path / "runs" / "tuned" / "tune" / "tune.json").read_text())
    assert len(search["trials"]) == 6 and search["fixed"] == [
        "augment",
        "lora.last_blocks",
        "optim.batch_size",
        "optim.epochs",
        "optim.head_lr",
        "pixel.height",
        "pixel.width",
    ]
    told = {"settings", "why", "chosen", "time_was_up"} | {key for trial in search["trials"] for key in trial}
    assert told <= {*search, *search["trials"][0]}
    assert (
        not (tmp_path / "runs" / "default" / "tune").exists()
        and len(json.loads((tmp_path / "runs" / "python" / "tune" / "tune.json").read_text())["trials"]) == 3
    )
    text = text_of("tuning")
    for name, values in VALUES.items():
        row = next(row for row in text.splitlines() if row.startswith(f"| `{name}` |"))
        assert [float(value) for value in row.split("|")[2].split(",")] == list(values)
    more = run_line(
        "vidrisk train site/labels.csv -o runs/json --task risk --tune 2 --tune-minutes 0 --json",
        tmp_path,
        *QUICK["train"],
        *quick,
    )
    found = json.loads(more.stdout)  # type: ignore[attr-defined]
    assert found["tune"]["asked"] == 2 and found["tune"]["time_was_up"] and found["val"]["defect"]["n"] > 0
    lines = run_line(
        "vidrisk train site/labels.csv -o runs/few --task risk --tune 2 --tune-minutes 0",
        tmp_path,
        *QUICK["train"],
        *quick,
    ).stdout  # type: ignore[attr-defined]
    assert (
        "search on 3 folds of the training split" in lines
        and "→ 0" in lines
        and re.search(r"trial \d+ is taken: ", lines)
    )
    for arguments, said in (
        (("--tune", "1"), "error: --tune 1; allowed: 2 to 200 trials"),
        (("--tune-minutes", "3"), "error: --tune-minutes without --tune; fix: add --tune, or leave"),
        (("--tune", "3", "--task", "report"), "fix: leave --tune out"),
    ):
        end = run_line("vidrisk train site/labels.csv -o runs/bad", tmp_path, *arguments, code=2)
        assert said in end.stderr and end.stderr.count("\n") == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES)
def test_links_options_and_settings_exist(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", text_of(page))
    assert [link for link in links if not (DOCS / link).exists()] == []
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text_of(page)))
    commands = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "vidrisk" / "cli").glob("*.py"))
    offered = {f"--{option.replace('_', '-')}" for option in re.findall(r"^    (\w+): ", commands, re.MULTILINE)}
    assert named and named <= offered | {
        option for found in re.findall(r'"(--[\w/-]+)"', commands) for option in found.split("/")
    }
    assert set(re.findall(r"--set (\w+)", text_of(page))) <= set(TrainConfig.model_fields)


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_linked(page: str) -> None:
    assert f"](docs/{page}.md)" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert f"]({page}.md)" in text_of("support")


@pytest.mark.page("docs/training.md")
def test_a_training_run(tmp_path: Path, run_line: RunLine, clip_folder: Path) -> None:
    shutil.copytree(clip_folder, tmp_path / "clips")
    run_page("training", tmp_path, run_line, "--set", "optim.epochs=2", "--set", "views=1")
    config = Run.open(tmp_path / "runs" / "longer").config
    first = Run.open(tmp_path / "runs" / "first").config
    assert (first.frames, first.rgb_diff, config.frames, config.rgb_diff) == (16, True, 32, True)
    assert config.head.kind in ("motion", "segments") and (tmp_path / "augmented.png").is_file()
    default, text = TrainConfig(), text_of("training")
    for name, said in {
        "cache_mb": "memory ({:,})",
        "disk_cache_mb": "folder ({:,})",
        "views": "| {} augmented views",
    }.items():
        assert said.format(getattr(default, name)) in text
    assert (
        f"| `lora.last_blocks` | {default.lora.last_blocks} |" in text
        and f"| `head.start` | `{default.head.start}`" in text
    )
    assert set(re.findall(r"^\| `(\w+)`(?:, `(\w+)`)? \| [^`]", text, re.MULTILINE)) >= {
        ("linear", "mlp"),
        ("motion", ""),
    }
