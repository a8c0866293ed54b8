"""Tests of report runs: n inputs give n rows, whatever the inputs are and however often the run is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from processes import children
from risk_tables import draw, write_csv, write_jsonl
from small_report_bundle import SCHEME, report_bundle, write_report_bundle
from tiny_text import END

from vidrisk.data import load_cases, split_cases
from vidrisk.data.convert_cases import convert_cases
from vidrisk.decode.pool import DecodePool
from vidrisk.inference.ask_photos import read_pictures
from vidrisk.inference.open_reporter import open_reporter
from vidrisk.inference.predictions import PREDICTIONS, Prediction, read_predictions
from vidrisk.inference.reporter import Reporter
from vidrisk.jobs import report_run
from vidrisk.jobs.case_inputs import CaseInputs, find_cases
from vidrisk.jobs.case_pictures import read_bounded_pictures
from vidrisk.jobs.compare_reports import compare_run
from vidrisk.jobs.compared import read_compared
from vidrisk.jobs.join_reports import Leads, leads_from_predictions
from vidrisk.jobs.ledger import Row, read_ledger
from vidrisk.jobs.parquet import PARQUET
from vidrisk.jobs.report_rows import read_report_rows
from vidrisk.jobs.report_run import run_reports
from vidrisk.jobs.report_settings import ReportSettings
from vidrisk.jobs.summary import SUMMARY, Summary, read_summary
from vidrisk.report import build_report
from vidrisk.runtimes.contract.errors import DataError, Interrupted, SettingsError

ONE = ReportSettings(workers=1)
AGAIN = replace(ONE, resume=True)
QUESTION = "What does the photo show?"
ASKED = replace(ONE, question=QUESTION)
Run = Callable[..., Summary]


@pytest.fixture(scope="module")
def reporter() -> Iterator[Reporter]:
    with open_reporter(report_bundle(), threads=1, runtime="onnxruntime") as opened:
        yield opened


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle without a scheme whose answers end: every 32nd byte ends an answer."""
    folder = tmp_path_factory.mktemp("talks")
    return write_report_bundle(folder / "talks.bundle", scheme=None, seed=1, ends=(END, *range(5, 256, 32)))


@pytest.fixture(scope="module")
def talker(talks: Path) -> Iterator[Reporter]:
    with open_reporter(talks, threads=1, runtime="onnxruntime") as opened:
        yield opened


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with nine photos and one file that is not a photo."""
    folder = tmp_path / "photos"
    for number in range(9):
        draw(folder / f"{number}.png", number)
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff junk")
    return folder


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    with DecodePool(1) as opened:
        yield opened


@pytest.fixture
def run(reporter: Reporter, pool: DecodePool) -> Run:
    """Return a function that runs over inputs with the shared reporter and decode processes."""
    return lambda inputs, out, settings=ONE, other=reporter: run_reports(other, inputs, out, settings, pool=pool)


def inputs_of(*paths: Path | str) -> CaseInputs:
    return find_cases([*paths], SCHEME)


def result(out: Path) -> tuple[dict[str, Row], dict[str, Prediction]]:
    """Return rows and predictions by their keys; check that no key occurs twice."""
    rows, found = read_ledger(out), list(read_predictions(out))
    assert len({row.path for row in rows}) == len(rows) and len({each.path for each in found}) == len(found)
    assert {row.path for row in rows if row.predictions} == {each.path for each in found}
    return {row.path: row for row in rows}, {each.path: each for each in found}


def table(folder: Path, **first: str) -> Path:
    """Write a table of four cases.

    The first has two photos and an absent one, the second a bad photo, the third only a text, the fourth only an
    absent photo.
    """
    return write_csv(
        folder / "risks.csv",
        [
            {
                "id": "a",
                "image_paths": "photos/1.png;photos/2.png;photos/gone.png",
                "level": "minor",
                "defect": "",
                **first,
            },
            {"id": "b 楼#1", "image_paths": "photos/bad.jpg", "level": "", "defect": "words"},
            {"id": "c", "image_paths": "", "level": "", "defect": "a crack"},
            {"id": "d", "image_paths": "photos/never.png", "level": "", "defect": "words"},
        ],
    )


def test_every_kind_of_input_ends_in_the_ledger(run: Run, photos: Path, tmp_path: Path) -> None:
    cases = table(tmp_path)
    (tmp_path / "list.txt").write_text(
        f"\ufeffphotos/3.png\n\n  {photos / '4.png'}\r\nphotos/gone.png\n", encoding="utf-8"
    )
    inputs = inputs_of(cases, tmp_path / "list.txt", photos)
    summary = run(inputs, tmp_path / "out")
    rows, found = result(tmp_path / "out")
    keys = [f"{cases}#{name}" for name in ("a", "b 楼#1", "c", "d")]
    listed = [str(photos / name) for name in ("3.png", "4.png", "gone.png")]
    others = [str(photos / name) for name in ("0.png", "1.png", "2.png", "5.png", "6.png", "7.png", "8.png", "bad.jpg")]
    assert list(rows) == keys + listed + others == list(inputs.cases)
    states = {path: row.state for path, row in rows.items() if row.state != "ok"}
    assert states == {
        keys[0]: "partial",
        keys[1]: "corrupt",
        keys[3]: "skipped",
        listed[2]: "skipped",
        others[-1]: "corrupt",
    }
    assert (
        rows[keys[0]].reason.startswith("missing: photos/gone.png")
        and rows[keys[3]].reason == "none of its photos exists"
    )
    assert rows[keys[1]].reason == rows[others[-1]].reason and "does not exist" in rows[listed[2]].reason
    assert (
        (summary.task, summary.inputs, summary.predictions, summary.failed)
        == ("report", 15, 11, 5)
        == ("report", len(rows), len(found), len(states))
    )
    assert replace(read_summary(tmp_path / "out"), targets=summary.targets) == summary
    assert sum(summary.labels["level"].values()) == 11
    for path, prediction in found.items():
        report = prediction.report
        assert report is not None and report["parse_ok"] and json.loads(report["text"]) == report["fields"]
        assert prediction.label == report["fields"]["level"] and len(prediction.targets["level"]) == 3
        assert report["case"] == (path.rpartition("#")[2] if "#" in path else Path(path).name)
        names = {"a": ["1.png", "2.png"], "c": []}.get(report["case"], [report["case"]])
        assert report["photos"] == [{"path": str(photos / name)} for name in names]
    assert found[str(photos / "1.png")].id != found[keys[0]].id and report_page_shows(tmp_path / "out", found)
    assert list(found) == [path for path in rows if path in found]  # the lines have the order of the ledger


def report_page_shows(out: Path, found: dict[str, Prediction]) -> bool:
    page = build_report(out).read_text(encoding="utf-8")
    reports = [prediction.report for prediction in found.values() if prediction.report]
    has_headings = all(heading in page for heading in ("<dt>Defect</dt>", "<dt>Advice</dt>"))
    photos = sum(len(report["photos"]) for report in reports)
    return (
        has_headings
        and len(reports) == page.count('<li class="card"')
        and photos == page.count("<img") > len(reports) - 1
        and page.count("described in words only") == 1
        and "no longer there" not in page
    )


def test_a_finished_run_is_not_done_again_and_a_changed_photo_is(
    run: Run, reporter: Reporter, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, inputs = tmp_path / "out", inputs_of(photos)
    run(inputs, out)
    before = (out / PREDICTIONS).read_bytes()
    asked = count_cases(reporter, monkeypatch)
    run(inputs, out, AGAIN)
    assert (asked, (out / PREDICTIONS).read_bytes()) == ([], before)
    draw(photos / "3.png", 99, (60, 40))
    run(inputs_of(photos), out, AGAIN)
    assert asked == ["3.png"] and len(result(out)[1]) == 9
    with pytest.raises(SettingsError, match="holds a run already"):
        run(inputs, out)


def count_cases(reporter: Reporter, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that collects the names of the cases that are read from now on."""
    asked: list[str] = []
    read = reporter.prompts.read

    def counted(cases: Any, *arguments: Any) -> Any:
        for pictured in read(cases, *arguments):
            asked.append(pictured[0].id)
            yield pictured

    monkeypatch.setattr(reporter.prompts, "read", counted)
    return asked


def test_a_table_that_changed_is_noticed(
    run: Run, reporter: Reporter, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, cases = tmp_path / "out", table(tmp_path)
    run(inputs_of(cases), out)
    asked = count_cases(reporter, monkeypatch)
    run(inputs_of(cases), out, AGAIN)
    assert asked == []
    draw(photos / "gone.png", 7)
    draw(photos / "2.png", 98, (61, 40))
    run(inputs_of(cases), out, AGAIN)
    assert asked == ["a"] and result(out)[0][f"{cases}#a"].state == "ok"
    asked.clear()
    table(tmp_path, defect="others")
    run(inputs_of(cases), out, AGAIN)
    assert asked == ["a", "b 楼#1", "c"]  # nobody knows which rows of it are other ones
    asked.clear()
    write_csv(cases, [{"id": "c", "image_paths": "", "level": "", "defect": "a hole"}])
    run(inputs_of(cases), out, AGAIN)
    rows, found = result(out)
    assert asked == ["c"] and len(rows) == 4 and f"{cases}#a" in found  # an input that has gone keeps its result


def test_photos_in_rows_never_lie_on_disk(run: Run, photos: Path, tmp_path: Path) -> None:
    rows = [{"id": f"r{number}", "image_path": f"photos/{number}.png", "level": "minor"} for number in range(6)]
    folder = tmp_path / "parquet"
    convert_cases(split_cases(load_cases(write_csv(tmp_path / "r.csv", rows), SCHEME)), folder, "risk-parquet")
    for path in photos.iterdir():
        path.unlink()
    tables = sorted(folder.glob("*.parquet"))
    before = sorted(tmp_path.rglob("*"))
    run(inputs_of(*tables), tmp_path / "out", replace(ONE, parquet=True))
    made = set(tmp_path.rglob("*")) - set(before)
    assert {path.name for path in made} == {"out", "ledger.sqlite", PREDICTIONS, SUMMARY, PARQUET}
    rows_of, found = result(tmp_path / "out")
    assert len(found) == 6 and all(row.state == "ok" for row in rows_of.values())
    assert {path.rpartition("#")[2] for path in found} == {f"r{number}" for number in range(6)}
    assert build_report(tmp_path / "out").read_text(encoding="utf-8").count('class="photo"><img src="data:image') == 6
    columns = pq.read_table(tmp_path / "out" / PARQUET).to_pylist()
    assert [json.loads(row["report"]) for row in columns] == [prediction.report for prediction in found.values()]


def test_two_tables_with_equal_ids_and_jsonl(run: Run, photos: Path, tmp_path: Path) -> None:
    row = {"id": "same", "image": "photos/1.png"}
    tables = [write_jsonl(tmp_path / f"{name}.jsonl", [row]) for name in ("one", "two")]
    run(inputs_of(*tables), tmp_path / "out")
    _, found = result(tmp_path / "out")
    assert (
        list(found) == [f"{path}#same" for path in tables]
        and len({prediction.id for prediction in found.values()}) == 1
    )
    assert list(inputs_of(tables[0], photos / ".." / "one.jsonl").cases) == [
        f"{tables[0]}#same"
    ]  # one table, in two spellings


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("list.txt", "\n \n", "list.txt lists no photo"),
        ("list.txt", "gone.png\n", "no clip or photo found"),
        ("risks.csv", "id,level\n1,minor\n", "risks.csv has no"),
        ("risks.csv", "", "risks.csv"),
        ("risks.parquet", "PAR1", "risks.parquet"),
    ],
)
def test_what_holds_no_case_is_said_before_anything_is_written(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        inputs_of(tmp_path / name)


@pytest.mark.parametrize("settings", [ONE, ASKED], ids=["reports", "question"])
def test_ctrl_c_leaves_what_is_finished_and_resume_goes_on(
    run: Run, photos: Path, tmp_path: Path, settings: ReportSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(inputs_of(photos), whole, settings)
    line = report_run._line
    written = 0

    def interrupted(*arguments: Any) -> bytes:
        nonlocal written
        written += 1
        if written == 4:
            raise KeyboardInterrupt
        return line(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(report_run, "_line", interrupted)
        with pytest.raises(Interrupted, match="stopped after 3 of 10 inputs"):
            run(inputs_of(photos), out, settings)
    assert len(result(out)[1]) == 3 and not (out / SUMMARY).exists()
    run(inputs_of(photos / "8.png"), out, replace(settings, resume=True))  # what was named before is done, too
    assert (out / PREDICTIONS).read_bytes() == (whole / PREDICTIONS).read_bytes()


def test_runs_of_other_bundles_and_limits_are_refused(run: Run, photos: Path, tmp_path: Path) -> None:
    run(inputs_of(photos / "1.png"), tmp_path / "out")
    with open_reporter(report_bundle(), threads=1, runtime="onnxruntime", answer_tokens=30) as other:
        with pytest.raises(SettingsError, match="has answer_tokens 224, this one 30"):
            run(inputs_of(photos / "1.png"), tmp_path / "out", AGAIN, other)
        run(inputs_of(photos), tmp_path / "short", replace(ONE, parquet=True), other)
    rows, found = result(tmp_path / "short")
    assert {row.state for path, row in rows.items() if path in found} == {"partial"} and len(found) == 9
    assert all(
        prediction.label == "" and "cut off after 30 tokens" in prediction.reason for prediction in found.values()
    )
    assert "cut off after 30 tokens" in build_report(tmp_path / "short").read_text(encoding="utf-8")


@pytest.mark.slow(minutes=1)
@pytest.mark.parametrize("asks", [False, True], ids=["reports", "question"])
def test_killed_runs_lose_nothing(
    photos: Path, tmp_path: Path, run: Run, reporter: Reporter, talks: Path, talker: Reporter, asks: bool
) -> None:
    for number in range(9, 70):
        draw(photos / f"{number}.png", number)
    cases = table(tmp_path)
    run(inputs_of(photos, cases), tmp_path / "whole", ASKED if asks else ONE, talker if asks else reporter)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "VIDRISK_CACHE": str(tmp_path / "cache")}
    command = [
        sys.executable,
        "-m",
        "vidrisk",
        "infer",
        str(talks if asks else report_bundle()),
        str(photos),
        str(cases),
        "-o",
        str(tmp_path / "out"),
        "--resume",
        "--no-report",
        "--runtime",
        "onnxruntime",
        "--threads",
        "1",
        "--workers",
        "1",
        *(["--question", QUESTION] if asks else []),
    ]
    lines = tmp_path / "out" / PREDICTIONS
    sizes = []
    for _ in range(2):
        before = lines.stat().st_size if lines.exists() else 0
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as running:
            deadline = time.monotonic() + 60
            while running.poll() is None and (lines.stat().st_size if lines.exists() else 0) == before:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            workers = children(running.pid)
            running.send_signal(signal.SIGKILL)
        sizes.append(lines.stat().st_size)
        assert all(not Path(f"/proc/{worker}").exists() or time.sleep(1) is None for worker in workers)
    assert sizes[0] < (tmp_path / "whole" / PREDICTIONS).stat().st_size
    assert (
        subprocess.run(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60, check=False
        ).returncode
        == 4
    )
    assert lines.read_bytes() == (tmp_path / "whole" / PREDICTIONS).read_bytes()
    assert {path: row.state for path, row in result(tmp_path / "out")[0].items()} == {
        path: row.state for path, row in result(tmp_path / "whole")[0].items()
    }


def test_texts_are_written_under_the_levels_of_a_classifier(
    reporter: Reporter, photos: Path, pool: DecodePool, tmp_path: Path
) -> None:
    """The classifier's level leads, the model's own level is kept, and the page says where the two disagree."""
    free, led = tmp_path / "free", tmp_path / "led"
    run_reports(reporter, inputs_of(photos), free, ONE, pool=pool)
    own = {
        path: max(each.targets["level"], key=each.targets["level"].__getitem__)
        for path, each in result(free)[1].items()
    }
    given = {path: next(name for name in SCHEME.level_names if name != level) for path, level in own.items()}
    unseen = str(photos / "8.png")
    leads = leads_of({path: level for path, level in given.items() if path != unseen})
    run_reports(reporter, inputs_of(photos), led, ONE, pool=pool, leads=leads)
    found = result(led)[1]
    assert found.keys() == own.keys()
    for path, prediction in found.items():
        report = prediction.report
        assert report is not None and report["parse_ok"]
        if path == unseen:
            assert "given_level" not in report and prediction.label == result(free)[1][path].label
            continue
        assert (
            prediction.label == prediction.level == report["given_level"] == given[path]
            and report["own_level"] == own[path]
        )
        assert prediction.targets == result(free)[1][path].targets
    assert build_report(led).read_text(encoding="utf-8").count("<dt>Disagreement</dt>") == len(found) - 1
    assert all(row.own_level == own[row.path] for row in read_report_rows(led) if row.path != unseen)
    with pytest.raises(SettingsError, match="leads"):
        run_reports(reporter, inputs_of(photos), led, AGAIN, pool=pool)
    run_reports(reporter, inputs_of(photos), led, AGAIN, pool=pool, leads=replace(leads))
    with pytest.raises(
        SettingsError, match="has leads"
    ):  # the same photos, with a classifier that has learnt something
        run_reports(reporter, inputs_of(photos), led, AGAIN, pool=pool, leads=leads_of(given))


def leads_of(levels: Mapping[str, str]) -> Leads:
    """Return the leads of a classifier that gives these levels, by path."""
    return leads_from_predictions(
        [
            Prediction(path, None, None, level, 0.9, False, None, level, None, {"level": {level: 0.9}})
            for path, level in levels.items()
        ],
        SCHEME,
        "classes",
    )


def test_cases_of_tables_are_compared_by_their_photos(run: Run, photos: Path, tmp_path: Path) -> None:
    """Cases of tables are compared with a classifier's levels by their photos if no truth names the photos."""
    cases, out = table(tmp_path), tmp_path / "out"
    run(inputs_of(cases), out)
    comparison = compare_run(out, None, SCHEME, leads=leads_of({str(photos / "2.png"): "severe"}))
    found = {each.path: each for each in read_compared(out)}
    lead = found[f"{cases}#a"].lead
    assert lead is not None and lead.level == "severe" and found[f"{cases}#a"].photo == {"path": str(photos / "1.png")}
    assert comparison.unseen == 1 and found[f"{cases}#c"].lead is None


def test_pictures_of_a_page_are_as_small_as_it_wants_them(photos: Path, pool: DecodePool) -> None:
    draw(photos / "large.png", 1, (900, 700))
    own = [{"path": str(photos / name)} for name in ("large.png", "bad.jpg", "1.png")]
    for max_bytes in (60_000, 2_000, 1):
        pictures = read_bounded_pictures(own, pool, max_bytes, 2048)
        assert [picture is not None for picture in pictures] == [max_bytes > 1, False, max_bytes > 1]
        assert all(picture.bytes <= max_bytes for picture in pictures if picture)


def test_a_level_that_the_scheme_has_not_leads_nothing_and_is_said_once(
    reporter: Reporter, photos: Path, pool: DecodePool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    levels = {str(photos / f"{number}.png"): "minor" if number else "of another scheme" for number in range(9)}
    leads = leads_of(levels)
    assert [record.getMessage() for record in caplog.records] == [
        f"the classifier's run in classes gives 1 of 9 inputs a level that the scheme {SCHEME.name} does not have, such as "
        "'of another scheme': the level is ignored for these inputs"
    ]
    run_reports(reporter, inputs_of(photos), tmp_path / "out", ONE, pool=pool, leads=leads)
    reports = {path: prediction.report or {} for path, prediction in result(tmp_path / "out")[1].items()}
    assert len(reports) == 9
    assert [path for path, report in reports.items() if "given_level" not in report] == [str(photos / "0.png")]


def test_a_question_is_asked_about_every_input(run: Run, talker: Reporter, photos: Path, tmp_path: Path) -> None:
    """A question is asked about every input, and the answers equal those of ``ask``.

    For a table, it is asked about the photos of each case together.
    """
    cases, out = table(tmp_path, level="of no scheme"), tmp_path / "out"
    (tmp_path / "list.txt").write_text("photos/3.png\nphotos/gone.png\n", encoding="utf-8")
    inputs = find_cases([cases, tmp_path / "list.txt", photos], talker.query(QUESTION).scheme)
    summary = run(inputs, out, ASKED, talker)
    rows, found = result(out)
    keys, gone, bad = (
        [f"{cases}#{name}" for name in ("a", "b 楼#1", "c", "d")],
        str(photos / "gone.png"),
        str(photos / "bad.jpg"),
    )
    assert list(rows) == list(inputs.cases) and len(rows) == 15
    assert {path: row.state for path, row in rows.items() if row.state != "ok"} == {
        keys[0]: "partial",
        keys[1]: "corrupt",
        keys[2]: "skipped",
        keys[3]: "skipped",
        gone: "skipped",
        bad: "corrupt",
    }
    assert (rows[keys[2]].reason, rows[keys[3]].reason) == ("it has no photo", "none of its photos exists")
    assert summary.question == QUESTION == read_summary(out).question and summary.settings["question"] == QUESTION
    assert (summary.predictions, summary.labels, summary.targets, summary.uncertain) == (10, {}, (), None)
    for path, names in {
        str(photos / "3.png"): ["3.png"],
        str(photos / "5.png"): ["5.png"],
        keys[0]: ["1.png", "2.png"],
    }.items():
        answer = talker.ask(read_pictures(talker, [str(photos / name) for name in names]), QUESTION)
        assert found[path].report == {
            "case": path.rpartition("#")[2] if "#" in path else names[0],
            "question": QUESTION,
            "fields": {},
            "parse_ok": True,
            "problems": [],
            "text": answer.text,
            "finish": "stop",
            "prompt_tokens": answer.prompt_tokens,
            "answer_tokens": len(answer.tokens),
            "photos": [{"path": str(photos / name)} for name in names],
        }
    texts = [prediction.report["text"] for prediction in found.values() if prediction.report]
    assert len(set(texts)) > 3 and len({prediction.id for prediction in found.values()}) == len(found)
    assert {(each.label, each.level, each.score, each.uncertain, len(each.targets)) for each in found.values()} == {
        ("", None, 0.0, None, 0)
    }


def test_the_page_of_a_question_shows_photos_and_answers(
    run: Run, talker: Reporter, photos: Path, tmp_path: Path
) -> None:
    run(inputs_of(photos), tmp_path / "out", replace(ASKED, question="Is it <b>?\n\u202eWhere"), talker)
    texts = [prediction.report["text"] for prediction in result(tmp_path / "out")[1].values() if prediction.report]
    page = build_report(tmp_path / "out").read_text(encoding="utf-8")
    assert page.count('<p class="question" lang="en">Is it &lt;b&gt;?\n\\u202eWhere</p>') == 1
    assert page.count('<li class="card"') == page.count('class="photo"><img src="data:image') == len(texts) == 9
    assert page.count("<dt>Answer</dt>") == 9 and len(set(texts)) > 3 and "bad.jpg" in page
    assert "Not readable" not in page and "Distribution" not in page and "not known" not in page


def test_a_run_of_another_question_is_another_run(
    run: Run, talker: Reporter, reporter: Reporter, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, inputs, again = tmp_path / "out", inputs_of(photos), replace(ASKED, resume=True)
    run(inputs, out, ASKED, talker)
    before, ids = (out / PREDICTIONS).read_bytes(), {each.id for each in result(out)[1].values()}
    asked = count_cases(talker, monkeypatch)
    run(inputs, out, again, talker)
    assert (asked, (out / PREDICTIONS).read_bytes()) == ([], before)
    with pytest.raises(SettingsError, match=r"has question …e photo show\?, this one …e photo hide…; fix"):
        run(inputs, out, replace(again, question="What does the photo hide from us?"), talker)
    run(inputs, tmp_path / "other", replace(ASKED, question="Why?"), talker)
    assert not ids & {each.id for each in result(tmp_path / "other")[1].values()}
    run(inputs_of(photos / "1.png"), tmp_path / "reports", ONE, reporter)
    run(inputs_of(photos / "1.png"), tmp_path / "answers", ASKED, reporter)
    with pytest.raises(SettingsError, match="has task report, this one question"):
        run(inputs_of(photos / "1.png"), tmp_path / "reports", again, reporter)
    with pytest.raises(SettingsError, match="has task question, this one report"):
        run(inputs_of(photos / "1.png"), tmp_path / "answers", AGAIN, reporter)
    with pytest.raises(
        DataError, match=r"predictions\.jsonl, line 1 holds the answer to a question, not a report; fix: compare"
    ):
        compare_run(
            out, write_csv(tmp_path / "truth.csv", [{"id": "1", "image": "photos/1.png", "level": "minor"}]), SCHEME
        )


def test_answers_to_a_question_that_are_cut_off_are_partial(run: Run, photos: Path, tmp_path: Path) -> None:
    with open_reporter(report_bundle(), threads=1, runtime="onnxruntime", answer_tokens=12) as short:
        summary = run(inputs_of(photos), tmp_path / "out", ASKED, short)
    rows, found = result(tmp_path / "out")
    assert summary.states == {"partial": 9, "corrupt": 1} and len(found) == 9
    for path, prediction in found.items():
        assert rows[path].state == prediction.state == "partial"
        assert rows[path].reason == prediction.reason == "the answer is cut off after 12 tokens"
        assert prediction.report and prediction.report["problems"] == ["it is cut off after 12 tokens"]
        assert (prediction.report["parse_ok"], prediction.report["finish"], prediction.label) == (False, "length", "")
    page = build_report(tmp_path / "out").read_text(encoding="utf-8")
    assert page.count('<span class="badge " lang="en">cut off</span>') == 9 and "does not parse" not in page


def test_what_no_run_can_ask_is_refused_before_anything_is_written(
    run: Run, talker: Reporter, photos: Path, tmp_path: Path
) -> None:
    inputs, out = inputs_of(photos), tmp_path / "out"
    with pytest.raises(SettingsError, match="a question without words; allowed: a question"):
        replace(ONE, question=" \n")
    with pytest.raises(SettingsError, match="question is 3; allowed: a text"):
        ReportSettings(question=3)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="the question is too long: its prompt of"):
        run(inputs, out, replace(ONE, question="why? " * 200), talker)
    with pytest.raises(
        SettingsError, match=r"talks\.bundle has no scheme of reports.*fix: give infer a question, which"
    ):
        run(inputs, out, ONE, talker)
    leads = leads_of({"/1.png": "minor"})
    with pytest.raises(SettingsError, match="a question beside a classifier's levels"):
        run_reports(talker, inputs, out, ASKED, leads=leads)
    assert not out.exists()
