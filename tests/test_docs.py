"""The documents against the code: the README's commands are run as they stand, its tables and paths are compared."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = README + "".join((REPOSITORY / "docs" / name).read_text(encoding="utf-8") for name in (
    "architecture.md", "distributed-training.md", "foreign.md", "python.md", "text.md", "vlm.md"))
CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
CONSOLE = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
QUICK_SEARCH = ("--search-s", "5")  # an export takes minutes else, and all but the choice of blocks is the same
MOTIONS = {"wave": (200, 40, 40), "point": (40, 180, 40), "sit down": (40, 40, 200)}
LEVELS = {"轻微": (60, 60, 60), "中等": (130, 60, 30), "严重": (230, 230, 40)}


def test_the_readme_shows_commands() -> None:
    assert {line.split()[1] for line in CONSOLE} >= {"data", "train", "export", "eval", "infer", "doctor"}
    assert all(line.startswith("vidrisk ") for line in CONSOLE)


@pytest.mark.slow(minutes=8)
def test_every_command_of_the_readme_does_what_it_says(tmp_path: Path) -> None:
    for label, rgb in MOTIONS.items():
        for number in range(9):
            write_clip(tmp_path / "clips" / label / f"{number}.mp4", rgb, seed=number)
    write_clip(tmp_path / "cam7" / "08:00.mp4", MOTIONS["wave"], seed=7)
    write_clip(tmp_path / "cam7" / "late" / "09:00.mp4", MOTIONS["point"], seed=8)
    write_risks(tmp_path / "photos")
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "VIDRISK_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    stdout = ""
    for line in CONSOLE:
        command = [sys.executable, "-m", *shlex.split(line), *QUICK_SEARCH * ("--int8" in line)]
        end = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert end.returncode == 0, f"{line}\n{end.stdout}\n{end.stderr}"
        if line.startswith("vidrisk infer"):
            stdout = end.stdout
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    held_out = (tmp_path / "clips" / "split.csv").read_text(encoding="utf-8").count(",test")
    assert json.loads((tmp_path / "eval.json").read_text(encoding="utf-8"))["metrics"]["action"]["n"] == held_out > 0
    for out, inputs in (("out", 2), ("walls-out", 30)):
        assert {path.name for path in (tmp_path / out).iterdir()} == {
            "predictions.jsonl",
            "ledger.sqlite",
            "summary.json",
            "thumbnails.sqlite",
            "report.html",
        }
        assert len((tmp_path / out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()) == inputs
    beside = {path.name for path in (tmp_path / "day").iterdir()} - {path.name for path in (tmp_path / "out").iterdir()}
    assert beside == {"segments.jsonl", "predictions.parquet", "features"}
    quick = json.loads((tmp_path / "quick" / "summary.json").read_text(encoding="utf-8"))
    assert (quick["settings"]["frames"], quick["settings"]["static_levels"]) == ("keyframes", 3.0)
    assert json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    summary = json.loads(stdout)
    assert (summary["states"], summary["runtime"]) == ({"ok": 30}, "onnxruntime") and summary["variant"] in ("int8", "mixed")
    assert 0 <= summary["mean_severity"] <= 100
    assert "立即停工" in (tmp_path / "walls-out" / "report.html").read_text(encoding="utf-8")


def write_clip(path: Path, rgb: tuple[int, int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(8):
            frame = np.clip(np.array(rgb) + rng.integers(-30, 30, (64, 96, 3)), 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def write_risks(folder: Path) -> None:
    """``risk.csv`` with the columns of the field, and its thirty photos."""
    (folder / "图").mkdir(parents=True)
    rows = [["image_path", "data_风险", "data_风险等级", "data_纠正和预防建议", "data_缺陷描述"]]
    for number in range(30):
        level = tuple(LEVELS)[number % 3]
        noise = np.random.default_rng(number).integers(-25, 25, (48, 48, 3))
        name = f"图/墙 {number}.png"
        Image.fromarray(np.clip(np.array(LEVELS[level]) + noise, 0, 255).astype(np.uint8)).save(folder / name)
        rows.append([name, "坍塌", level, "立即停工, 撤离" if level == "严重" else "定期检查", "墙体裂缝"])
    with (folder / "risk.csv").open("w", encoding="gb18030", newline="") as file:
        csv.writer(file).writerows(rows)


def test_the_two_commands_come_first() -> None:
    section = README.partition("## Two commands")[2].partition("##")[0]
    assert re.findall(r"^    make (\w+)", section, re.MULTILINE) == ["demo", "test"]


@pytest.mark.parametrize("document", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_make_targets_exist(document: str) -> None:
    named = set(re.findall(r"(?:`|^    )make (\w+)", document, re.MULTILINE))
    targets = set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))
    assert named and named <= targets


def test_every_target_is_listed_by_make_help() -> None:
    make = ["make", "--no-print-directory", "help"]
    listed = subprocess.run(make, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^(\w+):.*##", MAKEFILE, re.MULTILINE)
    assert targets and {line.split()[0] for line in listed.splitlines()} == set(targets)


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    """``benchmarks/tables.py``, imported: that alone writes nothing."""
    spec = importlib.util.spec_from_file_location("tables", REPOSITORY / "benchmarks" / "tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (REPOSITORY / "README.md").read_text(encoding="utf-8") == README
    return module


@pytest.mark.parametrize("name", re.findall(r"<!-- table:(\w+) -->", PAGES))
def test_tables_are_those_of_the_results_and_the_modules(tables: ModuleType, name: str) -> None:
    (written,) = re.findall(rf"<!-- table:{name} -->\n(.*?)<!-- /table -->", PAGES, re.DOTALL)
    try:
        expected = getattr(tables, name)()
    except FileNotFoundError as error:
        pytest.skip(f"{error.filename} is not there: its benchmark has not been run")
    assert written == expected + "\n", "run: make format"


@pytest.mark.parametrize("document", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_paths_and_links_lead_somewhere(document: str) -> None:
    places = {entry.name for entry in REPOSITORY.iterdir()}
    quoted = [
        word
        for text in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", document, flags=re.DOTALL))
        for word in text.split()
    ]
    paths = [word for word in quoted if "/" in word and word.partition("/")[0] in places]
    links = [link for link in re.findall(r"\]\(([^)#]+)", document) if "://" not in link]
    assert paths
    assert [path for path in [*paths, *links] if not (REPOSITORY / path).exists()] == []


def test_options_that_the_readme_names_exist() -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", README)) - {"--check", "--runs", "--data", "--work"}  # of the benchmarks
    offered = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "vidrisk" / "cli").glob("*.py"))
    by_name = {f"--{name.replace('_', '-')}" for name in re.findall(r"^    (\w+): ", offered, re.MULTILINE)}
    assert named and named <= by_name | set(re.findall(r'"(--[\w-]+)"', offered))
