"""Tests of the data on which an export is judged: the data of the run, or other data that are given."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from trained_reporters import write_cases, write_photo_of

from vidrisk.data.scheme_file import load_scheme
from vidrisk.jobs.report_samples import read_held_out_data, split_or_all
from vidrisk.models.config import TrainConfig
from vidrisk.models.pretrained import Labels
from vidrisk.models.run import Run
from vidrisk.runtimes.contract.errors import BundleError


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a run with the parts that reading data needs: its scheme and the folder of its photos."""
    _, scheme = write_cases(tmp_path, 2)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "scheme.json").write_text(load_scheme(scheme).to_json(), encoding="utf-8")
    (tmp_path / "run" / "data.json").write_text(json.dumps({"photos": str(tmp_path / "photos")}))
    return Run(tmp_path / "run", TrainConfig(task="report"), Labels(targets=(), clips=False))


def held_out(folder: Path, *splits: str) -> Path:
    folder.mkdir()
    with (folder / "held-out.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows(
            [["case_id", "photo", "level", "split"], *([n, f"{n}-0.png", "minor", s] for n, s in enumerate(splits))]
        )
    return folder / "held-out.csv"


def test_held_out_data_judge_whole_and_with_the_photos_of_the_run(run: Run, tmp_path: Path) -> None:
    write_photo_of(tmp_path / "photos" / "2-0.png", "minor", 2)
    data = read_held_out_data(run, held_out(tmp_path / "a", "", "", ""))
    assert [item.id for item in split_or_all(data, "val")] == ["0", "1", "2"] and data.scheme == run.scheme
    data = read_held_out_data(run, held_out(tmp_path / "b", "val", "test", "val"))
    assert [item.id for item in split_or_all(data, "val")] == ["0", "2"]
    (run.root / "data.json").write_text("[]")
    with pytest.raises(BundleError, match=r"data\.json cannot be read"):
        read_held_out_data(run, tmp_path / "a" / "held-out.csv")
