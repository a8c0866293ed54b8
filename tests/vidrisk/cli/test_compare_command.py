"""Tests of ``vidrisk compare`` and ``vidrisk data index``, with the commands of docs/comparing-reports.md."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import read_blocks
from report_runs import report, write_classifier_run, write_photos, write_run, write_truth

from vidrisk.report.comparison import PAGE

Cli = Callable[..., Any]
CONSOLE, SCRIPT = read_blocks("docs/comparing-reports.md")
COMMANDS = [command.removeprefix("vidrisk ") for command in CONSOLE.commands]
LEVELS = {"1.png": "严重", "2.png": "中等", "3.png": "轻微"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder for the page's commands: two runs over three photos, and a run over labelled photos."""
    folder = tmp_path_factory.mktemp("site")
    photos = write_photos(folder / "photos", tuple(LEVELS))
    classes = write_classifier_run(folder / "classes", photos)
    write_run(
        folder / "out",
        photos,
        {name: report({"level": "中等", "advice": "安排维修"}) for name in LEVELS},
        classes=classes,
    )
    rows = [{"image_path": f"photos/{name}", "level": level, "advice": "安排维修"} for name, level in LEVELS.items()]
    write_truth(folder / "truth.csv", rows)
    labelled = write_photos(folder / "labelled", ("a.png", "b.png", "c.png"))
    write_truth(
        labelled / "cases.csv",
        [{"image_path": f"{name}.png", "level": "严重", "advice": f"停工 {name}"} for name in "abc"],
    )
    write_classifier_run(folder / "labelled-run", labelled)
    return folder


@pytest.mark.page("docs/comparing-reports.md")
def test_the_commands_of_the_page(site: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shutil.copytree(site, tmp_path / "copy"))
    ends = [cli(*shlex.split(line)) for line in COMMANDS]
    assert [end.code for end in ends] == [0] * len(COMMANDS) and len(COMMANDS) == 4, [end.stderr for end in ends]
    assert "33.3%" in ends[0].stdout and "安" not in ends[0].stdout and f"→ out/{PAGE}" in ends[0].stdout
    told = json.loads(ends[1].stdout)
    assert told["scores"]["levels"]["level"]["correct"] == 1 and told["scores"]["lead"]["correct"] == 3
    assert told["scores"]["texts"]["advice"]["rouge_l"] == 1 and told["scores"]["agreement"]["count"] == 1
    assert ends[2].stdout == "3 photos, 3 features each → cases.npz\n"
    out = tmp_path / "copy" / "out"
    page = (out / PAGE).read_text(encoding="utf-8")
    assert "停工 a" in page and "From similar cases" in page and "classifier and report disagree" in page
    assert {path.name for path in out.glob("comparison.*")} == {"comparison.json", "comparison.jsonl", PAGE}


@pytest.mark.page("docs/comparing-reports.md")
def test_the_python_of_the_page(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shutil.copytree(site, tmp_path / "copy"))
    SCRIPT.execute({})
    accuracy, page = capsys.readouterr().out.split()
    assert float(accuracy) == pytest.approx(1 / 3) and Path(page) == Path("out") / PAGE and Path(page).is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["compare", "out"], 2, "a comparison with nothing; allowed: TRUTH, --classifier, or both"),
        (["compare", "out", "truth.csv", "--cases", "cases.npz"], 2, "--cases without --classifier"),
        (["compare", "classes", "truth.csv"], 1, "classes/predictions.jsonl, line 1 holds no report"),
        (["compare", "nothing", "truth.csv"], 1, "nothing has no summary.json"),
        (["compare", "out", "truth.csv", "--scheme", "three-levels-en"], 1, "(--scheme)"),
        (["compare", "out", "labelled/cases.csv"], 1, "no report of out has a case in labelled"),
        (["compare", "out", "truth.csv", "--split", "test"], 1, "3 reports, 0 cases"),
        (
            ["compare", "out", "truth.csv", "--classifier", "classes", "--cases", "truth.csv"],
            1,
            "truth.csv is no index of cases",
        ),
        (
            ["data", "index", "classes", "labelled/cases.csv", "-o", "x.npz"],
            1,
            "none of 3 photos of classes belongs to a case",
        ),
    ],
)
def test_errors_are_one_line(
    site: Path, cli: Cli, arguments: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site)
    end = cli(*arguments)
    assert end.code == code and said in end.stderr and len(end.stderr.splitlines()) == 1, end.stderr
    assert not (site / "out" / "comparison.json").exists()
