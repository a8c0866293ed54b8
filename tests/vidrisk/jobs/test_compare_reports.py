"""Tests of reports compared with the truth: scores by hand, unpaired cases and reports, bad input."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from report_runs import ENGLISH, SCHEME, report, write_classifier_run, write_photos, write_run, write_truth

from vidrisk.data import load_cases
from vidrisk.data.scheme import Scheme
from vidrisk.inference.neighbours import Neighbour
from vidrisk.inference.predictions import Prediction
from vidrisk.jobs.compare_reports import compare_report, compare_run, read_comparison
from vidrisk.jobs.compared import Compared, Lead, comparison_from_json, read_compared
from vidrisk.jobs.join_reports import lead_from_prediction, leads_from_predictions, read_leads
from vidrisk.jobs.report_rows import ReportRow, report_row_from_line
from vidrisk.runtimes.contract.errors import DataError, SettingsError, VidriskError

NAMES = ("a/1.png", "a/2.png", "b/1.png", "b/2 墙.png")


def fields(level: str, defect: str = "墙体有裂缝", risk: str = "", advice: str = "安排维修") -> dict[str, str]:
    return {"level": level, "defect": defect, "risk": risk, "advice": advice}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with photos and a classifier's run over them.

    The photos are red (严重), green (中等), blue (轻微) and red (严重).
    """
    folder = tmp_path_factory.mktemp("site")
    write_classifier_run(folder / "classes", write_photos(folder / "photos", NAMES))
    return folder


@pytest.fixture
def photos(site: Path) -> Path:
    return site / "photos"


@pytest.fixture
def classes(site: Path) -> Path:
    return site / "classes"


@pytest.fixture
def truth(photos: Path) -> Path:
    """Return a truth table in another order than the photos, with a case for which the run has no report."""
    levels = {"a/1.png": "轻微", "a/2.png": "严重", "b/1.png": "中等", "b/2 墙.png": "严重"}
    rows = [
        {"image_path": name, "level": levels[name], "defect": "墙体有竖向裂缝", "advice": "安排维修"} for name in NAMES
    ]
    random.Random(1).shuffle(rows)
    return write_truth(photos / "truth.csv", rows)


@pytest.fixture
def run(photos: Path, classes: Path, tmp_path: Path) -> Path:
    return write_run(
        tmp_path / "out",
        photos,
        {
            "a/1.png": report(fields("轻微")),
            "a/2.png": report(fields("轻微", advice=""), finish="length"),
            "b/1.png": report(fields("中等", defect=""), parse_ok=False, problems=["it is cut off"], text='{"level":'),
        },
        classes=classes,
        uncertain=False,
    )


def test_scores_by_hand(run: Path, truth: Path) -> None:
    comparison = compare_run(run, truth, SCHEME)
    scores = comparison.scores
    assert (scores.reports, comparison.cases, comparison.unpaired_reports.total) == (3, 3, 0)
    assert [where.partition(",")[0] for _, where in comparison.unpaired_cases.named] == ["truth.csv"]
    level = scores.levels["level"]
    assert (level.n, level.correct, level.missing, level.too_low, level.too_high) == (3, 1, 1, 1, 0)
    assert level.confusion == ((1, 0, 0, 0), (0, 0, 0, 1), (1, 0, 0, 0))
    assert (level.on_scale, level.mean_distance, level.quadratic_kappa) == (2, 1.0, 0.0)
    assert scores.parsed is not None and (scores.parsed.count, scores.parsed.of) == (2, 3)
    defect, advice = scores.texts["defect"], scores.texts["advice"]
    rouge = 2 * 5 / (7 + 5)
    assert (defect.n, defect.missing, defect.exact) == (3, 1, 0) and defect.rouge_l == pytest.approx(2 * rouge / 3)
    assert (advice.missing, advice.exact, advice.rouge_l, advice.chrf) == (2, *[pytest.approx(1 / 3)] * 3)
    assert defect.length_ratio == pytest.approx(10 / 21) and "risk" not in scores.texts
    assert scores.ece == pytest.approx(0.3) and scores.with_confidence == 2  # 0.8 twice, half of them right
    assert scores.abstained is not None and (scores.abstained.count, scores.abstained.of) == (0, 3)
    assert scores.finish == {"stop": 2, "length": 1} and scores.answer_tokens == 30
    content = json.loads((run / "comparison.json").read_text(encoding="utf-8"))
    assert content["scores"]["levels"]["level"]["accuracy"] == pytest.approx(1 / 3) and content["version"] == "1.0"
    assert read_comparison(run)["scores"]["reports"] == 3
    by_name = {Path(each.path).name: each for each in read_compared(run)}
    assert by_name["2.png"].distance == -2 and by_name["2.png"].truth is not None
    assert [each.is_wrong for each in read_compared(run)] == [False, True, True]


def test_a_comparison_is_the_same_whatever_the_order_of_the_truth(run: Path, photos: Path, truth: Path) -> None:
    header, *rows = truth.read_text(encoding="utf-8").splitlines()
    first = compare_run(run, truth, SCHEME).scores
    truth.write_text("\n".join([header, *rows[::-1]]) + "\n", encoding="utf-8")
    assert compare_run(run, truth, SCHEME).scores == first


def test_reports_find_their_cases_by_id_where_photos_are_elsewhere(run: Path, photos: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    for number, line in enumerate(lines):
        line["report"]["case"] = f"D-{2 - number}"
    (run / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    table = write_truth(
        tmp_path / "texts.csv",
        [
            {"id": f"D-{number}", "level": level, "defect": "裂缝"}
            for number, level in enumerate(("严重", "轻微", "中等"))
        ],
    )
    comparison = compare_run(run, table)
    assert [(each.case, each.is_wrong) for each in read_compared(run)] == [("D-2", True), ("D-1", False), ("D-0", True)]
    assert comparison.unpaired_cases.total == 0


def test_english_reports(photos: Path, classes: Path, tmp_path: Path) -> None:
    out = write_run(
        tmp_path / "out",
        photos,
        {
            name: report(
                {"level": "severe", "defect": "A crack in the wall.", "risk": "", "advice": "Call a specialist"}
            )
            for name in NAMES
        },
        classes=classes,
        scheme=ENGLISH,
    )
    table = write_truth(
        photos / "truth.csv",
        [{"image_path": name, "level": "Severe", "defect": "A long crack in the wall"} for name in NAMES],
    )
    scores = compare_run(out, table, "three-levels-en").scores
    assert scores.levels["level"].accuracy == 1 and scores.levels["level"].quadratic_kappa is None
    assert scores.texts["defect"].rouge_l == pytest.approx(2 * 5 / (5 + 6)) and set(scores.texts) == {"defect"}


def test_fields_of_choices_and_levels_off_the_scale(photos: Path, classes: Path, tmp_path: Path) -> None:
    scheme = Scheme.model_validate(
        {
            "name": "site",
            "language": "en",
            "levels": [{"name": "A", "severity": 0}, {"name": "B", "severity": 100}, {"name": "O"}],
            "fields": [
                {"name": "before", "label": "before", "kind": "level", "required": True},
                {"name": "now", "label": "now", "kind": "level"},
                {"name": "part", "label": "part", "kind": "choice", "choices": ["wall", "beam"]},
            ],
        }
    )
    out = write_run(
        tmp_path / "out",
        photos,
        {
            "a/1.png": report({"before": "B", "now": "A", "part": "wall"}),
            "a/2.png": report({"before": "O", "now": "", "part": ""}),
            "b/1.png": report({"before": "B", "now": "O", "part": "beam"}),
        },
        classes=classes,
        scheme=scheme,
    )
    table = write_truth(
        photos / "truth.csv",
        [
            {"image_path": "a/1.png", "before": "B", "now": "B", "part": "beam"},
            {"image_path": "a/2.png", "before": "O", "now": "", "part": "wall"},
            {"image_path": "b/1.png", "before": "O", "now": "O", "part": "beam"},
        ],
    )
    scores = compare_run(out, load_cases(table, scheme), scheme).scores
    assert (scores.levels["before"].correct, scores.levels["before"].on_scale) == (2, 1)
    assert (scores.levels["now"].n, scores.levels["now"].correct) == (2, 1)
    assert (scores.choices["part"].n, scores.choices["part"].correct, scores.choices["part"].missing) == (3, 1, 1)
    assert scores.choices["part"].quadratic_kappa is None and scores.texts == {}


# Two ways


def test_the_classifier_leads_and_a_disagreement_is_said(run: Path, classes: Path, truth: Path) -> None:
    leads = read_leads(classes, SCHEME)
    comparison = compare_run(run, truth, SCHEME, leads=leads)
    told = list(read_compared(run))
    assert [each.lead and each.lead.level for each in told] == ["严重", "中等", "轻微"]
    assert [each.disagrees for each in told] == [True, True, None]
    assert told[0].lead is not None and told[0].lead.advice == "立即停工。" and told[0].lead.defect == "red"
    scores = comparison.scores
    assert (
        scores.agreement is not None
        and (scores.agreement.count, scores.agreement.of) == (0, 2)
        and comparison.unseen == 0
    )
    assert scores.lead is not None and (scores.lead.n, scores.lead.correct) == (3, 0)
    alone = compare_run(run, None, SCHEME, leads=leads)
    assert alone.truth == "" and alone.scores.levels == {} and alone.scores.reports == 3
    assert [each.distance for each in read_compared(run)] == [-2, -1, None]


def test_a_classifier_that_has_not_seen_the_photos_is_said(run: Path, truth: Path, tmp_path: Path) -> None:
    other = write_photos(tmp_path / "others", ("a/1.png", "x.png"))
    comparison = compare_run(
        run, truth, SCHEME, leads=read_leads(write_classifier_run(tmp_path / "classes", other), SCHEME)
    )
    assert comparison.unseen == 3 and comparison.scores.agreement is None


def test_a_classifier_of_other_levels_is_refused(classes: Path) -> None:
    with pytest.raises(DataError, match="gives no level of the scheme riskva-like"):
        read_leads(
            classes,
            Scheme.model_validate(
                {
                    "name": "riskva-like",
                    "levels": [{"name": "X"}, {"name": "Y"}],
                    "fields": [{"name": "level", "label": "l", "kind": "level"}],
                }
            ),
        )
    with pytest.raises(DataError, match="gives no level"):
        leads_from_predictions([], SCHEME, "nothing")
    assert read_leads(classes, ENGLISH).by_path  # 严重 is another word for severe


def test_the_score_of_a_lead_is_that_of_its_level() -> None:
    """The score of a lead is the score of its level.

    The score of a label with the same name in another target is not used.
    """
    both = {"defect": {"severe": 0.9, "none": 0.1}, "level": {"severe": 0.6, "minor": 0.4}}
    prediction = Prediction("/1.png", None, None, "severe", 0.9, False, 60.0, "severe", "severe", both)
    assert lead_from_prediction(prediction, SCHEME).score == 0.6


# Bad input


def test_a_truth_of_another_scheme_is_refused(run: Path, truth: Path, photos: Path) -> None:
    with pytest.raises(DataError, match="the truth in photos is of the scheme three-levels; allowed: three-levels-en"):
        compare_run(run, load_cases(truth, SCHEME), ENGLISH)
    with pytest.raises(DataError, match="has level '轻微', which the scheme three-levels-en does not have"):
        compare_run(run, truth, ENGLISH)
    with pytest.raises(DataError, match="have the field 'level', which the scheme riskva does not have"):
        compare_run(
            run,
            load_cases(write_truth(photos / "riskva.csv", [{"image_path": "a/1.png", "level_before": "A"}]), "riskva"),
        )
    assert not (run / "comparison.json").exists() and not (run / "comparison.jsonl").exists()


def test_no_case_in_common_is_refused(run: Path, tmp_path: Path) -> None:
    other = write_photos(tmp_path / "others", ("c/9.png",))
    table = write_truth(other / "truth.csv", [{"image_path": "c/9.png", "level": "轻微"}])
    with pytest.raises(DataError, match=r"a case in others: 3 reports, 1 cases; the first: no case has its id or"):
        compare_run(run, table, SCHEME)
    with pytest.raises(SettingsError, match="a comparison with nothing"):
        compare_run(run, None, SCHEME)


def test_a_report_without_a_case_is_named_and_in_no_score(run: Path, photos: Path) -> None:
    table = write_truth(photos / "one.csv", [{"image_path": "a/1.png", "level": "轻微"}])
    comparison = compare_run(run, table, SCHEME)
    assert (comparison.scores.reports, comparison.scores.levels["level"].n, comparison.unpaired_reports.total) == (
        1,
        1,
        2,
    )
    assert [Path(name).name for name, _ in comparison.unpaired_reports.named] == ["2.png", "1.png"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"{", "line 2 is not JSON"),
        (b"[1]", "line 2: predictions.jsonl holds a list"),
        (
            b'{"path": "/a", "targets": {}, "uncertain": null, "version": "9.0"}',
            "line 2: predictions.jsonl has version 9.0",
        ),
        (b'{"path": "/a", "targets": {}, "uncertain": null}', "line 2 holds no report"),
        (b'{"path": "/a", "targets": {}, "uncertain": null, "report": {}}', "line 2 holds no report"),
        (b'{"path": "/a", "targets": {}, "uncertain": null, "report": []}', "line 2 holds no report"),
        (b'{"path": "/a", "targets": {}, "uncertain": null, "report": [1]}', "line 2 holds a damaged report"),
        (
            b'{"path": "/a", "targets": {}, "uncertain": null, "report": {"fields": {"level": 3}, "parse_ok": true}}',
            "'3' is not a text",
        ),
        (
            b'{"path": "/a", "targets": {}, "uncertain": null, "report": {"fields": {}, "parse_ok": 1}}',
            "neither true nor false",
        ),
        (
            b'{"path": "/a", "targets": [], "uncertain": null, "report": {"fields": {}, "parse_ok": true}}',
            "damaged report",
        ),
        (
            b'{"path": 1, "targets": {}, "uncertain": null, "report": {"fields": {}, "parse_ok": true}}',
            "damaged report",
        ),
        (b'{"targets": {}, "uncertain": null, "report": {"fields": {}, "parse_ok": true}}', "lacks 'path'"),
    ],
)
def test_a_damaged_line_is_named(run: Path, truth: Path, damage: bytes, message: str) -> None:
    path = run / "predictions.jsonl"
    first, *rest = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, damage, *rest]) + b"\n")
    with pytest.raises(DataError, match=message):
        compare_run(run, truth, SCHEME)


def test_runs_that_cannot_be_compared(run: Path, classes: Path, truth: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no report; fix: compare the run of a model that writes reports"):
        compare_run(classes, truth, SCHEME)
    with pytest.raises(VidriskError, match="its run did not end"):
        compare_run(tmp_path / "nothing", truth, SCHEME)
    with pytest.raises(DataError, match=r"has no comparison.json; fix: compare the run first"):
        read_comparison(run)


def test_lines_of_a_comparison_are_read_back() -> None:
    row = ReportRow("/a/\udcff.jpg", "D", {"level": "轻微"}, True, probabilities={"level": {"轻微": 0.5, "中等": 0.5}})
    neighbour = Neighbour("E", "e.jpg", "/e.jpg", {"advice": "x"}, 0.5)
    told = compare_report(SCHEME, row, None, Lead("严重", 0.9, True), (neighbour,))
    assert told.distance == -2 and told.disagrees and told.is_wrong is None and told.confidence == 0.5
    assert comparison_from_json(told.to_json()) == told
    for line in (
        "",
        "{",
        "[]",
        "{}",
        told.to_json().replace('"case"', '"cage"'),
        told.to_json().replace('"E"', '"E", "x": 1'),
    ):
        with pytest.raises(DataError, match=r"comparison\.jsonl"):
            comparison_from_json(line)
    assert isinstance(told, Compared)


def test_neighbours_come_with_rows() -> None:
    def row(neighbours: Any) -> ReportRow:
        line = {
            "path": "/a",
            "targets": {},
            "uncertain": None,
            "report": report({"level": "轻微"}, neighbours=neighbours),
        }
        return report_row_from_line(json.dumps(line).encode(), "line 1")

    told = {"case": "E", "photo": "e.jpg", "path": "", "fields": {"advice": "修"}, "similarity": 0.25}
    assert row([told] * 20).neighbours == (Neighbour("E", "e.jpg", "", {"advice": "修"}, 0.25),) * 10
    with pytest.raises(DataError, match="damaged report"):
        row([{**told, "similarity": "much"}])
