"""Tests of one long clip as a data set of intervals, from preview to bundle.

The clip is red in its first half and blue in its second half.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import vidrisk
from vidrisk.data import Table, load_table
from vidrisk.data.choice import Shown
from vidrisk.frames import Interval
from vidrisk.inference.model import open_classifier
from vidrisk.jobs.evaluate import evaluate
from vidrisk.jobs.export import _calibration_source, _choose_validation
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.models.run import Run
from vidrisk.runtimes.contract.errors import DataError

FPS, PARTS = 8, 32
HALVES = {"red": (200, 40, 40), "blue": (40, 40, 200)}
Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``long.mp4`` and its manifests.

    ``long.mp4`` has 16 s of either colour. ``m.csv`` has one row for each of its seconds, with a split.
    ``all.csv`` has rows without a split, for this clip and two more.
    """
    root = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(0)
    for name in ("long", "b", "c"):
        with av.open(str(root / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for rgb in HALVES.values():
                for _ in range(PARTS // 2 * FPS):
                    frame = np.clip(np.array(rgb) + rng.integers(-30, 30, (48, 64, 3)), 0, 255).astype(np.uint8)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
    rows = [
        (second, second + 1, "red" if second < PARTS // 2 else "blue", {3: "val", 7: "test"}.get(second % 8, "train"))
        for second in range(PARTS)
    ]
    (root / "m.csv").write_text(
        "video,start,end,action,split\n" + "".join(f"long.mp4,{a},{b},{c},{d}\n" for a, b, c, d in rows)
    )
    (root / "all.csv").write_text(
        "video,start_frame,end_frame,action\n"
        + "".join(f"{name}.mp4,{a * FPS},{b * FPS},{c}\n" for name in ("long", "b", "c") for a, b, c, _ in rows)
    )
    return root


@pytest.fixture(scope="module")
def run(cli: Cli, folder: Path, settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "parts"
    end = cli("train", folder / "m.csv", "-o", out, *settings)
    assert end.code == 0, end
    return out


def test_training_and_evaluation_see_the_parts(cli: Cli, folder: Path, run: Path, tmp_path: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["samples"] == {"train": 24, "val": 4, "test": 4} and metrics["test"]["action"]["top1"] == 1.0
    end = cli("eval", run, folder / "m.csv", "--split", "all", "-o", tmp_path / "e.json")
    assert end.code == 0, end
    assert "32 samples: 24 of the train split, 4 of the val split, 4 of the test split, which" in end.stdout
    found = json.loads((tmp_path / "e.json").read_text())["metrics"]["action"]
    assert (found["n"], found["top1"]) == (PARTS, 1.0)


def test_samples_of_the_training_are_counted(
    cli: Cli, folder: Path, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = (folder / "m.csv").read_text().splitlines()
    (folder / "unsplit.csv").write_text("".join(f"{row.rpartition(',')[0]}\n" for row in rows))
    end = cli("eval", run, folder / "unsplit.csv")
    assert end.code == 0 and "DATA has no splits, so the training may have used them" in end.stdout
    (warning,) = (record.getMessage() for record in caplog.records if "was trained on" in record.getMessage())
    assert warning == f"{run} was trained on 24 of the 32 scored samples, so the figures are too good"
    caplog.clear()
    assert cli("compare", run, run, folder / "m.csv").code == 0
    assert "was trained on" not in caplog.text


def test_the_test_split_alone_is_scored_by_default(cli: Cli, folder: Path, run: Path, tmp_path: Path) -> None:
    end = cli("eval", run, folder / "m.csv", "-o", tmp_path / "e.json")
    assert end.code == 0, end
    found = json.loads((tmp_path / "e.json").read_text())
    assert (found["splits"], found["metrics"]["action"]["n"]) == ({"test": 4}, 4)
    assert "4 samples: 4 of the test split\n" in end.stdout
    assert vidrisk.evaluate(run, folder / "m.csv", split="all").splits == {"train": 24, "val": 4, "test": 4}


def test_the_run_knows_its_parts(folder: Path, run: Path) -> None:
    assert {s.title: s.split for s in Run.open(run).read_split().samples} == {
        s.title: s.split for s in load_table(folder / "m.csv", "action").samples
    }


def test_evaluation_keeps_features_of_parts_apart(
    folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))
    table = load_table(folder / "all.csv", "action")
    with open_classifier(run) as classifier:
        first, second = (evaluate(classifier, table, InferSettings(workers=2, feature_cache=True)) for _ in range(2))
    assert first.metrics["action"].top1 == second.metrics["action"].top1 == 1.0
    np.testing.assert_allclose(first.probabilities["action"], second.probabilities["action"], atol=1e-4)


def test_a_part_outside_its_file_is_listed(
    cli: Cli, folder: Path, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "outside.csv").write_text(
        "video,start,end,action\nlong.mp4,1,2,red\nlong.mp4,31,32.5,blue\nlong.mp4,40,41,blue\n"
    )
    end = cli("eval", run, folder / "outside.csv", "-o", tmp_path / "e.json")
    (unreadable,) = json.loads((tmp_path / "e.json").read_text())["unreadable"]
    assert end.code == 4
    assert (unreadable["path"], unreadable["interval"], unreadable["state"]) == ("long.mp4", "[40, 41) s", "skipped")
    assert "lies outside the file, which has 32.00 s" in unreadable["reason"]
    assert (
        "1 of 3 samples were read with reservations; the first: long.mp4 [31, 32.5) s: [31, 32.5) s is cut"
        in caplog.text
    )


def test_the_preview_shows_the_parts(cli: Cli, folder: Path, tmp_path: Path) -> None:
    end = cli("data", "preview", folder / "m.csv", "-o", tmp_path / "s.png", "--per-class", "2")
    assert end.code == 0, end
    sheet = np.asarray(Image.open(tmp_path / "s.png").convert("RGB")).astype(int)
    rows = sheet[[48, 148], 210:560]
    assert (rows[0, :, 2] - rows[0, :, 0])[:300].mean() > 80 and (rows[1, :, 0] - rows[1, :, 2])[
        :300
    ].mean() > 80  # blue, then red


def test_a_split_keeps_files_together_and_is_read_again(cli: Cli, folder: Path) -> None:
    out = folder / "split.csv"
    end = cli("data", "split", folder / "all.csv", "-o", out, "--ratios", "1:1:1")
    assert end.code == 0, end
    table = load_table(out, "action")
    assert len(table) == 3 * PARTS and {s.interval.unit for s in table.samples if s.interval} == {"frame"}
    assert all(len({s.split for s in table.samples if s.name == name}) == 1 for name in ("long.mp4", "b.mp4", "c.mp4"))


@pytest.mark.slow
def test_the_export_calibrates_and_judges_on_parts(cli: Cli, folder: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "parts.bundle"
    end = cli("export", run, "-o", out, "--int8", "--max-drop", "50", "--allow-drop")
    assert end.code == 0, end
    end = cli("eval", out, folder / "m.csv", "-o", tmp_path / "e.json", "--runtime", "onnxruntime", "--variant", "fp32")
    assert end.code == 0, end
    assert json.loads((tmp_path / "e.json").read_text())["metrics"]["action"]["top1"] == 1.0


def test_what_was_seen_is_known_by_its_part(folder: Path, run: Path) -> None:
    splits = Run.open(run).read_split()
    table = load_table(folder / "m.csv", "action")
    seen = Shown(splits.of_split("train"))
    assert [sample in seen for sample in table.samples] == [sample.split == "train" for sample in table.samples]

    def parts(*intervals: Interval | None) -> Table:
        return table.with_samples(replace(table.samples[0], interval=interval, split=None) for interval in intervals)

    with pytest.raises(DataError, match="2 of 3 validation samples are in the run's training split"):
        _choose_validation(parts(Interval(3, 4), Interval(3.5, 4.5), None), splits)
    with pytest.raises(DataError, match="1 of 2 calibration samples are in a test split"):
        _calibration_source(parts(Interval(7.5, 8), Interval(1, 2)), splits.of_split("val"), splits)
