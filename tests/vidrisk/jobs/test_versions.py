"""Tests of versions: files that 0.1.0 wrote are read and continued.

Files of a newer minor version are read; files of another major version are refused.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from vidrisk.inference.model import open_classifier
from vidrisk.inference.predictions import PREDICTIONS, read_predictions
from vidrisk.jobs.ledger import LEDGER, read_ledger
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.segments import SEGMENTS, read_segments
from vidrisk.jobs.sources import Inputs
from vidrisk.jobs.summary import SUMMARY, read_summary
from vidrisk.report import build_report
from vidrisk.runtimes.contract.errors import DataError, SettingsError, VidriskError

OLD = Path(__file__).resolve().parents[2] / "fixtures" / "0.1.0"
STATES = {"/srv/line-3/red.mp4": "ok", "/srv/line-3/blue.mp4": "ok", "/srv/line-3/broken.mp4": "corrupt"}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return an output folder that 0.1.0 wrote; its inputs no longer exist."""
    return Path(shutil.copytree(OLD / "out", tmp_path / "out"))


def change_json(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Rewrite every line of a JSON Lines file, or the whole of a JSON file."""
    text = path.read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else [json.loads(text)]
    path.write_text("".join(json.dumps(change(record)) + "\n" for record in records), encoding="utf-8")


def set_meta(out: Path, **values: str) -> None:
    with closing(sqlite3.connect(out / LEDGER)) as database, database:
        database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())


def test_an_output_folder_of_0_1_0_is_read(out: Path) -> None:
    assert {row.path: row.state for row in read_ledger(out)} == STATES
    assert {prediction.label for prediction in read_predictions(out)} == {"red", "blue"}
    summary = read_summary(out)
    assert (summary.inputs, summary.predictions, summary.states) == (3, 2, {"ok": 2, "corrupt": 1})


def test_a_run_of_0_1_0_is_continued(out: Path) -> None:
    """A run of 0.1.0 is continued with its own bundle.

    Its finished predictions stay unchanged, and the new summary states its version.
    """
    before = (out / PREDICTIONS).read_bytes()
    with open_classifier(OLD / "colours.bundle", runtime="onnxruntime") as classifier:
        run_folder(classifier, Inputs((*STATES, "/srv/line-3/new.mp4")), out, InferSettings(resume=True))
    assert {row.path: row.state for row in read_ledger(out)} == {**STATES, "/srv/line-3/new.mp4": "skipped"}
    assert (out / PREDICTIONS).read_bytes() == before
    assert json.loads((out / SUMMARY).read_text(encoding="utf-8"))["version"] == "1.1"


def test_a_run_of_another_model_is_not_continued(out: Path) -> None:
    set_meta(out, contract="0" * 64)
    with (
        open_classifier(OLD / "colours.bundle", runtime="onnxruntime") as classifier,
        pytest.raises(
            SettingsError, match=r"has contract 000000000000…, this one .*fix: resume with what it was started with"
        ),
    ):
        run_folder(classifier, Inputs(tuple(STATES)), out, InferSettings(resume=True))


READERS: dict[str, Callable[[Path], Any]] = {
    PREDICTIONS: lambda out: list(read_predictions(out)),
    SUMMARY: read_summary,
    SEGMENTS: lambda out: list(read_segments(out)),
}


@pytest.mark.parametrize("name", READERS)
def test_a_newer_minor_version_is_read_and_a_newer_major_one_refused(name: str, out: Path) -> None:
    if name == SEGMENTS:
        (out / SEGMENTS).write_text(
            json.dumps(
                {
                    "path": "/a.mp4",
                    "start_s": 0.0,
                    "end_s": 1.0,
                    "label": "red",
                    "score": 0.5,
                    "severity": None,
                    "windows": 2,
                    "peak_start_s": 0.0,
                    "peak_end_s": 0.5,
                    "peak_score": 0.9,
                }
            )
            + "\n",
            encoding="utf-8",
        )
    before = READERS[name](out)
    change_json(out / name, lambda record: {"new": [1], **record, "version": "1.99"})
    assert READERS[name](out) == before
    change_json(out / name, lambda record: {**record, "version": "1.1"})
    with pytest.raises(DataError, match="'new'"):
        READERS[name](out)
    change_json(out / name, lambda record: {**record, "version": "2.0"})
    with pytest.raises(DataError, match=r"has version 2\.0; allowed: 1\.x; fix: use a newer vidrisk$"):
        READERS[name](out)


def test_a_report_is_made_of_a_newer_minor_version_with_more_keys_at_any_depth(out: Path) -> None:
    time_spec = {"frames": 4, "window_s": 1.0, "stride_s": 1.0}

    def change(record: dict[str, Any]) -> dict[str, Any]:
        return {
            **record,
            "version": "1.99",
            "time": {**time_spec, "new": 0},
            "targets": [{**target, "new": 0} for target in record["targets"]],
            "settings": {**record["settings"], "new": 0},
            "provenance": {**record["provenance"], "new": "0"},
            "timings_s": {**record["timings_s"], "new": 0.0},
        }

    change_json(out / SUMMARY, change)
    assert read_summary(out).time == time_spec
    build_report(out)
    change_json(out / SUMMARY, lambda record: {**record, "time": {**time_spec, "new": 0}, "version": "1.1"})
    with pytest.raises(DataError, match="'new'"):
        build_report(out)


@pytest.mark.parametrize("version", [1, 1.1, None, "one", "1", "1.1.1", "-1.0", ["1.1"]])
def test_what_is_no_version_is_said(version: object, out: Path) -> None:
    change_json(out / PREDICTIONS, lambda record: {**record, "version": version})
    if version is None:
        assert list(read_predictions(out))
        return
    with pytest.raises(DataError, match=r"predictions\.jsonl has version .*; allowed: such as 1\.4"):
        list(read_predictions(out))


def test_a_ledger_of_a_newer_minor_version_is_continued_and_of_a_newer_major_one_refused(out: Path) -> None:
    set_meta(out, version="1.99", new="1")
    with closing(sqlite3.connect(out / LEDGER)) as database, database:
        database.execute("ALTER TABLE inputs ADD COLUMN new TEXT NOT NULL DEFAULT ''")
    with open_classifier(OLD / "colours.bundle", runtime="onnxruntime") as classifier:
        run_folder(classifier, Inputs((*STATES, "/srv/line-3/new.mp4")), out, InferSettings(resume=True))
        assert len(read_ledger(out)) == 4
        set_meta(out, version="2.0")
        message = r"ledger\.sqlite has version 2\.0; allowed: 1\.x; fix: use a newer vidrisk$"
        with pytest.raises(VidriskError, match=message):
            run_folder(classifier, Inputs(tuple(STATES)), out, InferSettings(resume=True))
    with pytest.raises(VidriskError, match=message):
        read_ledger(out)
