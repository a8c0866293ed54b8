from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from colour import RISK, colour_classifier
from small_media import write_cut_video, write_photo, write_video
from typer.testing import CliRunner

from vidrisk.cli.infer import infer
from vidrisk.inference.predictions import PREDICTIONS
from vidrisk.jobs.folder import LEDGER
from vidrisk.jobs.kept_thumbnails import THUMBNAILS
from vidrisk.jobs.summary import SUMMARY
from vidrisk.report.build import REPORT
from vidrisk.runtimes.contract.errors import EXIT_OK, EXIT_SOME_FAILED, EXIT_USAGE, DataError, SettingsError

app = typer.Typer()
app.command()(infer)


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("vidrisk.inference.model.open_classifier", lambda path, **options: colour_classifier(RISK))
    yield


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for colour in ("red", "green"):
        write_photo(folder / f"{colour}.png", colour)
    return folder


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["colours.bundle", *(os.fspath(a) for a in arguments)])
    if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_everything_is_written_and_said(photos: Path, tmp_path: Path) -> None:
    code, stdout = run(photos, "-o", tmp_path / "out")
    assert code == EXIT_OK
    assert {path.name for path in (tmp_path / "out").iterdir()} == {PREDICTIONS, LEDGER, SUMMARY, THUMBNAILS, REPORT}
    assert "2 inputs: 2 ok" in stdout and "mean severity" in stdout and REPORT in stdout


def test_a_failed_input_gives_exit_code_4(photos: Path, tmp_path: Path) -> None:
    (photos / "empty.png").write_bytes(b"")
    code, stdout = run(photos, "-o", tmp_path / "out", "--json", "--no-report")
    assert code == EXIT_SOME_FAILED
    assert json.loads(stdout)["states"] == {"ok": 2, "corrupt": 1}
    assert not (tmp_path / "out" / REPORT).exists()


def test_an_input_that_was_read_in_part_gives_exit_code_4(photos: Path, tmp_path: Path) -> None:
    """An input that was read in part gives exit code 4.

    Callers that act on the exit code must learn of a video that broke off, although its readable part is
    predicted.
    """
    write_cut_video(photos / "cut.avi")
    for more in ((), ("--resume",)):
        code, stdout = run(photos, "-o", tmp_path / "out", "--json", *more)
        assert (code, json.loads(stdout)["states"]) == (EXIT_SOME_FAILED, {"ok": 2, "partial": 1})
    assert "read in part" in (tmp_path / "out" / REPORT).read_text(encoding="utf-8")
    write_video(photos / "cut.avi", ("green",))
    code, stdout = run(photos, "-o", tmp_path / "out", "--json", "--resume")
    assert (code, json.loads(stdout)["states"]) == (EXIT_OK, {"ok": 3})


def test_resume(photos: Path, tmp_path: Path) -> None:
    run(photos, "-o", tmp_path / "out")
    with pytest.raises(SettingsError, match="resume=True continues it"):
        run(photos, "-o", tmp_path / "out")
    write_photo(photos / "blue.png", "blue")
    code, stdout = run(photos, "-o", tmp_path / "out", "--resume")
    assert code == EXIT_OK and "3 inputs: 3 ok" in stdout


def test_an_empty_folder_is_one_line_and_makes_no_out(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no clip or photo found"):
        run(tmp_path / "empty", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [("--runtime", "tensorflow"), ("--workers", "0"), ("--variant", "int4")])
def test_wrong_usage(photos: Path, tmp_path: Path, option: tuple[str, str]) -> None:
    assert run(photos, "-o", tmp_path / "out", *option)[0] == EXIT_USAGE
    assert not (tmp_path / "out").exists()


def test_a_stride_without_a_window(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="change the window or the stride"):
        run(photos, "-o", tmp_path / "out", "--stride", "1")
    assert not (tmp_path / "out").exists()


def test_odd_bytes_in_the_name_of_out(photos: Path, tmp_path: Path) -> None:
    code, _ = run(photos, "-o", tmp_path / os.fsdecode(b"out \xff"))
    assert code == EXIT_OK
