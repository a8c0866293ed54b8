"""Tests of user errors: one line on stderr, the right exit code, and no partial output.

The line begins with ``error:``.
"""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_media import write_photo, write_sound

from vidrisk.runtimes.contract.errors import EXIT_ERROR, EXIT_GATE, EXIT_OK, EXIT_SOME_FAILED, EXIT_USAGE

Cli = Callable[..., Any]


def assert_one_line(end: Any, code: int, *said: str) -> None:
    assert end.code == code, end
    assert end.stderr.startswith("error: ") and end.stderr.count("\n") == 1, end.stderr
    assert all(word in end.stderr for word in said), end.stderr


def csv_of(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_an_empty_folder(cli: Cli, tiny_bundle: Path, tmp_path: Path, out: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_one_line(cli("train", tmp_path / "empty", "-o", out), EXIT_ERROR, "no clip or photo")
    assert_one_line(cli("infer", tiny_bundle, tmp_path / "empty", "-o", out), EXIT_ERROR, "no clip or photo")
    assert_one_line(cli("eval", tiny_bundle, tmp_path / "empty"), EXIT_ERROR, "no clip or photo")
    assert not out.exists()


def test_data_that_does_not_exist(cli: Cli, tiny_bundle: Path, tmp_path: Path, out: Path) -> None:
    assert_one_line(cli("train", tmp_path / "none", "-o", out), EXIT_ERROR, "does not exist")
    assert_one_line(cli("infer", tiny_bundle, tmp_path / "none", "-o", out), EXIT_ERROR, "no clip or photo")


def test_one_class_only(cli: Cli, tmp_path: Path, out: Path) -> None:
    (tmp_path / "data" / "red").mkdir(parents=True)
    write_photo(tmp_path / "data" / "red" / "1.png")
    assert_one_line(cli("train", tmp_path / "data", "-o", out), EXIT_ERROR, "only one action label", "two or more")
    assert not out.exists()


def test_an_output_below_a_file_is_refused_before_any_work(
    cli: Cli, tiny_run: Path, tiny_bundle: Path, clip_folder: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    for command, name in (
        (("eval", tiny_bundle, clip_folder), "e.json"),
        (("train", clip_folder), "run"),
        (("infer", tiny_bundle, clip_folder), "out"),
        (("export", tiny_run), "bundle"),
        (("data", "convert", tmp_path / "none", "--to", "coco"), "c.json"),
        (("data", "convert", tmp_path / "none", "--to", "tfrecord"), "records/new"),
        (("data", "convert", tmp_path / "none", "--to", "risk-jsonl"), "reports"),
        (("data", "split", clip_folder), "split.csv"),
        (("bench", tiny_bundle), "b.json"),
    ):
        said = f"{notes} is a file, so {notes / name} cannot be written; fix: choose another output"
        assert_one_line(cli(*command, "-o", notes / name), EXIT_USAGE, said)
    assert notes.read_text() == "mine" and list(tmp_path.iterdir()) == [notes]


@pytest.mark.parametrize("taken", ["e.json", "e-errors.html", "e-confusion-action.png", "e-risk-action.png"])
def test_an_evaluation_overwrites_no_file(
    cli: Cli, tiny_bundle: Path, clip_folder: Path, tmp_path: Path, taken: str
) -> None:
    (tmp_path / taken).write_text("mine")
    end = cli("eval", tiny_bundle, clip_folder, "-o", tmp_path / "e.json")
    assert_one_line(end, EXIT_ERROR, f"{taken} exists already; fix: choose another name, or delete it first")
    assert (tmp_path / taken).read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_unreadable_clips_become_rows_of_the_ledger(
    cli: Cli, tiny_bundle: Path, clip_folder: Path, tmp_path: Path, out: Path
) -> None:
    data = tmp_path / "cam 7 '\"楼🎥"
    data.mkdir()
    good = sorted((clip_folder / "red").iterdir())[0]
    shutil.copy(good, data / "good, one.mp4")
    (data / "zero.mp4").touch()
    (data / "truncated.mp4").write_bytes(good.read_bytes()[:200])
    (data / "text.mp4").write_text("no clip at all", encoding="utf-8")
    write_sound(data / "sound.mp4")
    end = cli("infer", tiny_bundle, data, "-o", out, "--json")
    assert (end.code, end.stderr) == (EXIT_SOME_FAILED, "") and json.loads(end.stdout)["states"]["ok"] == 1
    with sqlite3.connect(out / "ledger.sqlite") as ledger:
        columns = [column[1] for column in ledger.execute("pragma table_info(inputs)")]
        rows = [dict(zip(columns, row, strict=True)) for row in ledger.execute("select * from inputs")]
    ledger.close()
    states = {Path(str(row["path"])).name: (row["state"], row["reason"]) for row in rows}
    assert states["good, one.mp4"] == ("ok", "") and len(states) == 5
    assert all(
        state in ("corrupt", "skipped") and reason
        for name, (state, reason) in states.items()
        if name != "good, one.mp4"
    ), states
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("zero.mp4", "truncated.mp4", "text.mp4", "sound.mp4"))


def test_training_goes_on_without_unreadable_clips(
    cli: Cli, clip_folder: Path, settings: list[str], tmp_path: Path, out: Path
) -> None:
    data = Path(shutil.copytree(clip_folder, tmp_path / "data"))
    (data / "red" / "zero.mp4").touch()
    write_sound(data / "red" / "sound.mp4")
    end = cli("train", data, "-o", out, *settings, "--set", "optim.epochs=1", "--json")
    assert end.code == EXIT_OK
    assert {row["path"] for row in json.loads(end.stdout)["unreadable"]} == {"red/zero.mp4", "red/sound.mp4"}


def test_a_csv_with_a_missing_column_or_a_path_that_leaves(cli: Cli, tmp_path: Path, out: Path) -> None:
    write_photo(tmp_path / "a.png")
    lacking = csv_of(tmp_path / "m.csv", [["image_path", "note"], ["a.png", "x"]])
    assert_one_line(cli("train", lacking, "-o", out, "--task", "risk"), EXIT_ERROR, "m.csv")
    leaving = csv_of(
        tmp_path / "n.csv", [["image_path", "data_风险等级"], ["a.png", "轻微"], ["../../etc/passwd", "严重"]]
    )
    assert_one_line(cli("train", leaving, "-o", out, "--task", "risk"), EXIT_ERROR, "leaves the manifest's folder")
    assert not out.exists()


def test_nan_in_a_manifest(cli: Cli, tmp_path: Path, out: Path) -> None:
    write_photo(tmp_path / "a.png")
    write_photo(tmp_path / "b.png")
    (tmp_path / "m.jsonl").write_text(
        '{"path": "a.png", "label": NaN}\n{"path": "b.png", "label": "x"}\n', encoding="utf-8"
    )
    assert_one_line(cli("train", tmp_path / "m.jsonl", "-o", out), EXIT_ERROR, "only one action label (x)")


def test_an_unknown_backbone(cli: Cli, clip_folder: Path, out: Path) -> None:
    end = cli("train", clip_folder, "-o", out, "--backbone", "nobody/none-such")
    assert_one_line(end, EXIT_USAGE, "unknown backbone 'nobody/none-such'", "efficientnet-lite0")
    assert not out.exists()


@pytest.mark.parametrize(
    ("assignment", "said"),
    [("optim.epochs=0", "optim.epochs"), ("nonsense=1", "nonsense"), ("augment=[", "YAML"), ("epochs", "key=value")],
)
def test_a_bad_setting(cli: Cli, clip_folder: Path, out: Path, assignment: str, said: str) -> None:
    assert_one_line(cli("train", clip_folder, "-o", out, "--set", assignment), EXIT_USAGE, said)


def test_a_bad_configuration_file(cli: Cli, clip_folder: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("optim: [", encoding="utf-8")
    assert_one_line(cli("train", clip_folder, "-o", out, "--config", tmp_path / "c.yaml"), EXIT_USAGE, "YAML")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("byte", "changed after export"),
        ("missing", "lacks encoder.int8.onnx"),
        ("schema", "schema version 99"),
        ("manifest", "not a manifest"),
    ],
)
def test_a_damaged_bundle(
    cli: Cli, tiny_bundle: Path, clip_folder: Path, tmp_path: Path, out: Path, damage: str, said: str
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "b.bundle"))
    graph, manifest = bundle / "encoder.int8.onnx", bundle / "bundle.json"
    if damage == "byte":
        content = bytearray(graph.read_bytes())
        content[len(content) // 2] ^= 1
        graph.write_bytes(content)
    elif damage == "missing":
        graph.unlink()
    elif damage == "schema":
        manifest.write_text(
            json.dumps({**json.loads(manifest.read_text(encoding="utf-8")), "schema_version": 99}), encoding="utf-8"
        )
    else:
        manifest.write_text("{", encoding="utf-8")
    assert_one_line(cli("infer", bundle, clip_folder, "-o", out), EXIT_ERROR, said, "fix:")
    assert_one_line(cli("eval", bundle, clip_folder), EXIT_ERROR, said)
    assert not out.exists()


def test_an_out_that_exists(cli: Cli, tiny_run: Path, tiny_bundle: Path, clip_folder: Path, out: Path) -> None:
    out.mkdir()
    (out / "mine.txt").write_text("mine", encoding="utf-8")
    assert_one_line(cli("train", clip_folder, "-o", out), EXIT_USAGE, "exists and is not empty")
    assert_one_line(cli("export", tiny_run, "-o", out), EXIT_ERROR, "exists already")
    assert_one_line(cli("infer", tiny_bundle, clip_folder, "-o", out), EXIT_USAGE, "not empty")
    assert_one_line(cli("data", "preview", clip_folder, "-o", out / "mine.txt"), EXIT_USAGE, "mine.txt")
    assert_one_line(cli("demo", "-o", out), EXIT_USAGE, "exists and is not empty")
    assert_one_line(
        cli("train", clip_folder, "-o", out / "mine.txt"), EXIT_USAGE, "mine.txt is a file; allowed: a new folder"
    )
    assert [path.name for path in out.iterdir()] == ["mine.txt"] and (out / "mine.txt").read_text(
        encoding="utf-8"
    ) == "mine"


def test_the_gate_refuses(cli: Cli, tiny_run: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidrisk.export.gate.hops.LOGIT_TOLERANCE", {"fp32": -1.0})  # stricter than any float can be
    assert_one_line(cli("export", tiny_run, "-o", out), EXIT_GATE, "the gate refused", "no bundle was written")
    assert not out.exists() and out.with_name(f"{out.name}.refused.html").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("train",),
        ("train", "x"),
        ("export", "r", "-o", "b", "--max-drop", "-1"),
        ("export", "r", "-o", "b", "--only", "fp64"),
        ("infer", "b", "x"),
        ("infer", "b", "x", "-o", "o", "--workers", "0"),
        ("train", "x", "-o", "o", "--task", "other"),
        ("--nonsense",),
        ("data", "split", "x", "-o", "m.csv", "--task", "other"),
        ("eval", "m"),
        ("data",),
    ],
)
def test_wrong_usage(cli: Cli, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    end = cli(*arguments)
    assert end.code == EXIT_USAGE and "Traceback" not in end.stderr and "Usage:" in end.stdout + end.stderr
    assert list(tmp_path.iterdir()) == []


def test_options_that_contradict_one_another(
    cli: Cli, tiny_run: Path, tiny_bundle: Path, clip_folder: Path, out: Path
) -> None:
    assert_one_line(cli("export", tiny_run, "-o", out, "--only", "int8"), EXIT_USAGE, "make it, too: int8")
    assert_one_line(cli("infer", tiny_bundle, clip_folder, "-o", out, "--stride", "1"), EXIT_USAGE, "--window")
    assert_one_line(
        cli("infer", tiny_bundle, clip_folder, "-o", out, "--runtime", "torch"), EXIT_USAGE, "torch cannot read"
    )
    wrong = cli("infer", tiny_bundle, clip_folder, "-o", out, "--variant", "bf16")
    assert wrong.code == EXIT_USAGE and "'bf16' is not one of" in wrong.stderr
    missing = cli("infer", tiny_bundle, clip_folder, "-o", out, "--variant", "fp16")
    assert_one_line(missing, EXIT_ERROR, "colours.bundle has no variant 'fp16'; allowed: fp32, int8")
    assert_one_line(
        cli("infer", tiny_run, clip_folder, "-o", out, "--runtime", "onnxruntime"), EXIT_USAGE, "vidrisk export"
    )
    assert_one_line(cli("export", tiny_bundle, "-o", out), EXIT_ERROR, "not a finished run")
    assert not out.exists()
