"""Tests that run the commands of the README and of the pages that it links to, block by block.

Some commands get further options that shorten them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from pages import Block, read_blocks
from PIL import Image

OWN_PHOTOS, CLIPS, RISKS = read_blocks("docs/quick-start.md")
IN_SHORT, PYTHON = read_blocks("README.md")
(WINDOWS,), (ENGINES,), (EXPORT,) = map(read_blocks, ("docs/inference.md", "docs/devices.md", "docs/export.md"))
QUICK = {"export": ("--search-s", "5")}  # an export takes minutes else, and all but the choice of blocks is the same
# Of clips; photos are trained and exported at the size of the README.
QUICK_CLIPS = {**QUICK, "train": ("--set", "pixel.height=96", "--set", "pixel.width=96")}
MOTIONS = {"wave": (200, 40, 40), "point": (40, 180, 40), "sit down": (40, 40, 200)}
LEVELS = {"轻微": (60, 60, 60), "中等": (130, 60, 30), "严重": (230, 230, 40)}
FILES = {"predictions.jsonl", "ledger.sqlite", "summary.json", "thumbnails.sqlite", "report.html"}
RunLine = Callable[..., Any]

pytestmark = [
    pytest.mark.slow(minutes=4),
    pytest.mark.page("README.md", "docs/quick-start.md", "docs/export.md", "docs/inference.md", "docs/devices.md"),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the README's folders of clips and photos."""
    root = tmp_path_factory.mktemp("readme")
    for label, rgb in MOTIONS.items():
        for number in range(9):
            write_clip(root / "clips" / label / f"{number}.mp4", rgb, seed=number)
    write_clip(root / "cam7" / "08:00.mp4", MOTIONS["wave"], seed=7)
    write_clip(root / "cam7" / "late" / "09:00.mp4", MOTIONS["point"], seed=8)
    write_risks(root / "photos")
    return root


@pytest.fixture(scope="module")
def motions(project: Path, run_line: RunLine) -> Path:
    """Return the project after the block about clips has run: it has trained, exported and inferred."""
    run_block(CLIPS, project, run_line)
    return project


def run_block(block: Block, folder: Path, run_line: RunLine, quick: dict[str, tuple[str, ...]] = QUICK_CLIPS) -> Any:
    """Run the commands of a block, except those of pip, and return the result of the last one."""
    end = None
    for line in vidrisk_commands(block):
        is_first_infer = block is CLIPS and line.startswith("vidrisk infer ")
        end = run_line(line, folder, *quick.get(line.split()[1], ()), alone=is_first_infer)
    return end


def vidrisk_commands(block: Block) -> list[str]:
    """Return the commands of a block without ``pip``, which tests/test_install_page.py runs."""
    return [line for line in block.commands if not line.startswith("pip ")]


def test_every_block_is_run_by_a_test() -> None:
    blocks = (CLIPS, WINDOWS, ENGINES, RISKS, OWN_PHOTOS)
    verbs = [[line.split()[1] for line in vidrisk_commands(block)] for block in blocks]
    assert verbs == [
        ["data", "data", "train", "export", "verify", "eval", "infer", "doctor"],
        ["infer", "infer", "bench"],
        ["export", "build", "deploy", "watch"],
        ["data", "train", "export", "infer"],
        ["train", "export", "infer"],
    ]
    assert all(line.startswith("vidrisk ") for block in blocks for line in vidrisk_commands(block))


def test_the_commands_of_the_readme_and_of_the_export_are_those_of_the_quick_start() -> None:
    assert len(IN_SHORT.commands) == 6
    assert [line for line in CLIPS.commands if line in IN_SHORT.commands] == IN_SHORT.commands
    assert len(EXPORT.commands) == 1 and EXPORT.commands[0] in CLIPS.commands


def test_the_python_of_the_readme_runs(
    motions: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(motions)
    PYTHON.execute({})
    path, label, score = capsys.readouterr().out.split()
    assert (Path(path), label) == (motions / "cam7" / "08:00.mp4", "wave") and 0 < float(score) <= 1


def test_clips_become_a_bundle_and_predictions(motions: Path) -> None:
    assert (motions / "sheet.png").read_bytes().startswith(b"\x89PNG")
    held_out = (motions / "clips" / "split.csv").read_text(encoding="utf-8").count(",test")
    assert json.loads((motions / "eval.json").read_text(encoding="utf-8"))["metrics"]["action"]["n"] == held_out > 0
    assert_inferred(motions / "out", 2)


def test_windows_key_frames_and_speed(motions: Path, run_line: RunLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidrisk.bench.data.BUDGET_S", 0.0)  # one round
    run_block(WINDOWS, motions, run_line)
    assert {path.name for path in (motions / "day").iterdir()} - FILES == {"segments.jsonl", "predictions.parquet"}
    quick = json.loads((motions / "quick" / "summary.json").read_text(encoding="utf-8"))
    assert (quick["settings"]["frames"], quick["settings"]["static_levels"]) == ("keyframes", 3.0)
    assert json.loads((motions / "bench.json").read_text(encoding="utf-8"))


def test_other_engines_a_deployment_and_a_watched_folder(motions: Path, run_line: RunLine) -> None:
    run_block(ENGINES, motions, run_line)
    assert {path.name for path in (motions / "motions-gpu.bundle").iterdir()} > {"bundle.json", "gate.html"}
    assert list((motions / "engines").glob("*.engine"))
    assert (motions / "cabinet" / "install.sh").is_file()
    assert list((motions / "days").glob("20*/report.html"))


def test_photos_become_risks_and_a_report(project: Path, run_line: RunLine) -> None:
    end = run_block(RISKS, project, run_line, QUICK)
    assert_inferred(project / "walls-out", 30, "features")
    summary = json.loads(end.stdout)
    assert (summary["states"], summary["runtime"]) == ({"ok": 30}, "onnxruntime") and summary["variant"] in (
        "int8",
        "mixed",
    )
    assert 0 <= summary["mean_severity"] <= 100
    assert "立即停工" in (project / "walls-out" / "report.html").read_text(encoding="utf-8")


def test_own_photos_become_a_report_in_four_commands(tmp_path: Path, run_line: RunLine) -> None:
    write_risks(tmp_path / "photos")
    run_block(OWN_PHOTOS, tmp_path, run_line, {**QUICK, "train": ("--set", "optim.epochs=2")})
    assert_inferred(tmp_path / "first-report", 30)
    assert (tmp_path / "runs" / "first" / "split.parquet").is_file()


def assert_inferred(out: Path, inputs: int, *more: str) -> None:
    assert {path.name for path in out.iterdir()} == FILES | {*more}
    assert len((out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()) == inputs


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
    """Write ``risk.csv``, with the columns that are used in practice, and its thirty photos."""
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
