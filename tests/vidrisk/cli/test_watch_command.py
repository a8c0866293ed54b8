"""``vidrisk watch`` with a real bundle and a real engine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import typer
from colour_bundle import write_colour_bundle
from small_media import write_cut_video, write_photo, write_video
from typer.testing import CliRunner

from vidrisk.cli.watch import watch
from vidrisk.inference.predictions import read_predictions
from vidrisk.runtimes.contract.errors import EXIT_OK, EXIT_SOME_FAILED, EXIT_USAGE, BundleError, SettingsError
from vidrisk.watch.service import local_date

app = typer.Typer()
app.command()(watch)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colour_bundle(tmp_path_factory.mktemp("bundles") / "颜色 colours.bundle").root


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "in box").mkdir()
    return tmp_path / "in box"


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [os.fspath(argument) for argument in arguments])
    if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_once_predicts_what_is_there_and_says_so(inbox: Path, bundle: Path, tmp_path: Path) -> None:
    write_photo(inbox / "a.png", "green")
    write_video(inbox / "b.mp4", ("blue",))
    (inbox / "c.png").write_bytes(b"")
    options = (inbox, "-o", tmp_path / "out", "--bundle", bundle, "--once", "--settle", "0", "--runtime", "onnxruntime")
    before = local_date()
    assert run(*options) == (EXIT_SOME_FAILED, f"{local_date()}: 3 files (2 ok, 1 corrupt); 0 predictions uncertain\n")
    if local_date() != before:
        pytest.skip("midnight came between")
    day = tmp_path / "out" / before
    assert {Path(p.path).name: p.label for p in read_predictions(day)} == {"a.png": "green", "b.mp4": "blue"}
    summary = json.loads((day / "summary.json").read_text(encoding="utf-8"))
    assert summary["provenance"]["model"] == "颜色 colours.bundle" and summary["runtime"] == "onnxruntime"
    assert "a.png" in (day / "report.html").read_text(encoding="utf-8")
    assert run(*options) == (EXIT_OK, "")


def test_once_fails_for_what_was_read_in_part(inbox: Path, bundle: Path, tmp_path: Path) -> None:
    write_cut_video(inbox / "cut.avi")
    options = (inbox, "-o", tmp_path / "out", "--bundle", bundle, "--once", "--settle", "0", "--runtime", "onnxruntime")
    assert run(*options) == (EXIT_SOME_FAILED, f"{local_date()}: 1 files (1 partial); 1 predictions uncertain\n")


def test_without_a_report(inbox: Path, bundle: Path, tmp_path: Path) -> None:
    write_photo(inbox / "a.png", "green")
    run(inbox, "-o", tmp_path / "out", "--bundle", bundle, "--once", "--settle", "0", "--no-report")
    assert not list((tmp_path / "out").rglob("*.html"))


def test_what_cannot_be_used_is_one_line(inbox: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(BundleError, match="is not a bundle"):
        run(inbox, "-o", out, "--bundle", tmp_path, "--once")
    with pytest.raises(SettingsError, match="lies in the inbox"):
        run(inbox, "-o", out, "--bundle", bundle, "--once", "--move-done", inbox / "done")
    assert run(inbox, "-o", out, "--bundle", bundle, "--keep-days", "0")[0] == EXIT_USAGE
    assert run(inbox, "-o", out)[0] == EXIT_USAGE
    assert not out.exists()
