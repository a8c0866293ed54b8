"""Tests of similar cases, found by the features that runs keep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_runs import SCHEME, report, write_classifier_run, write_photos, write_run, write_truth

from vidrisk.data import load_cases
from vidrisk.inference.neighbours import read_index, write_index
from vidrisk.jobs.compare_reports import compare_run
from vidrisk.jobs.compared import read_compared
from vidrisk.jobs.join_reports import read_leads
from vidrisk.jobs.similar_cases import SimilarCases, index_from_run
from vidrisk.runtimes.contract.errors import DataError, SettingsError

LABELLED = ("r.png", "g.png", "b.png", "r2.png")  # red, green, blue, red


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    photos = write_photos(folder / "labelled", LABELLED)
    write_truth(
        photos / "cases.csv",
        [
            {"id": f"D-{name[:-4]}", "image_path": name, "level": level, "advice": advice}
            for name, level, advice in zip(LABELLED, ("严重", "中等", "轻微", "严重"), "停修看停", strict=True)
        ],
    )
    write_classifier_run(folder / "labelled-run", photos)
    write_classifier_run(folder / "new-run", write_photos(folder / "new", ("x.png", "y.png")))
    return folder


def test_the_most_similar_cases_come_with_their_advice(site: Path, tmp_path: Path) -> None:
    index = index_from_run(site / "labelled-run", load_cases(site / "labelled" / "cases.csv", SCHEME))
    write_index(index, tmp_path / "cases.npz")
    similar = SimilarCases(read_index(tmp_path / "cases.npz"), site / "new-run", count=3)
    found = similar.of(str(site / "new" / "x.png"))
    assert {each.case for each in found[:2]} == {"D-r", "D-r2"} and found[0].similarity == pytest.approx(1, abs=1e-3)
    assert found[0].fields == {"level": "严重", "advice": "停"} and found[0].path == str(site / "labelled" / "r.png")
    assert {each.case for each in similar.of(str(site / "new" / "y.png"), "D-g")} == {"D-r", "D-r2", "D-b"}
    assert similar.of("/never/seen.png") == ()


def test_a_labelled_photo_is_not_similar_to_itself(site: Path) -> None:
    index = index_from_run(site / "labelled-run", load_cases(site / "labelled" / "cases.csv", SCHEME))
    found = SimilarCases(index, site / "labelled-run").of(str(site / "labelled" / "r.png"))
    assert found[0].case == "D-r2" and "D-r" not in {each.case for each in found}


def test_reports_have_their_neighbours_beside_them(site: Path, tmp_path: Path) -> None:
    index = index_from_run(site / "labelled-run", load_cases(site / "labelled" / "cases.csv", SCHEME))
    out = write_run(
        tmp_path / "out",
        site / "new",
        {name: report({"level": "严重"}) for name in ("x.png", "y.png")},
        classes=site / "new-run",
    )
    compare_run(
        out, None, SCHEME, leads=read_leads(site / "new-run", SCHEME), similar=SimilarCases(index, site / "new-run", 1)
    )
    assert [[each.fields["advice"] for each in told.neighbours] for told in read_compared(out)] == [["停"], ["修"]]


def test_runs_that_have_no_features_or_another_model(site: Path, tmp_path: Path) -> None:
    cases = load_cases(site / "labelled" / "cases.csv", SCHEME)
    index = index_from_run(site / "labelled-run", cases)
    with pytest.raises(DataError, match=r"none of 2 photos of .* belongs to a case in labelled"):
        index_from_run(site / "new-run", cases)
    other = write_run(tmp_path / "other", site / "new", {}, classes=site / "new-run")
    summary = json.loads((other / "summary.json").read_text(encoding="utf-8"))
    summary["provenance"]["digest"] = "1" * 64
    (other / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"features of encoder .*; fix: make the index with the model that is used"):
        SimilarCases(index, other)
    bare = write_run(tmp_path / "bare", site / "new", {}, classes=site / "new-run")
    for path in (bare / "features").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="holds no features of row 1; fix: run infer with save_features"):
        SimilarCases(index, bare).of(str(site / "new" / "x.png"))
