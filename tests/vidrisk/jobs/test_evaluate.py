from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour import ACTION, COLOURS, RISK, colour_classifier
from colour_bundle import write_colour_bundle
from small_media import write_photo, write_video

from vidrisk.cli.views import print_evaluation
from vidrisk.data import Sample, Table, load_table
from vidrisk.decode.pool import DecodePool
from vidrisk.jobs.evaluate import evaluate, write_evaluation
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.runtimes.contract.errors import DataError, RuntimeFailure

ONE = InferSettings(workers=1)


def photo_table(folder: Path, *pairs: tuple[str, str]) -> Table:
    """Return a table of labelled photos from pairs of true colour and shown colour."""
    levels = {"red": "严重", "green": "中等", "blue": "轻微"}
    return Table(
        folder,
        "risk",
        tuple(
            Sample(Path(write_photo(folder / f"{i}.png", shown)), f"{i}.png", {"defect": true, "level": levels[true]})
            for i, (true, shown) in enumerate(pairs)
        ),
    )


def test_metrics_are_those_of_the_probabilities(tmp_path: Path) -> None:
    pairs = [
        ("red", "red"),
        ("red", "blue"),
        ("green", "green"),
        ("blue", "blue"),
        ("blue", "green"),
        ("green", "green"),
    ]
    table = photo_table(tmp_path, *pairs)
    with colour_classifier(RISK) as classifier:
        result = evaluate(classifier, table, ONE)
        # by hand: what the classifier answers for one photo of each colour, and its own arithmetic
        shown = np.stack([np.full((32, 32, 3), rgb, np.uint8) for rgb in ((220, 30, 30), (30, 220, 30), (30, 30, 220))])
        features = classifier.features(shown)
        by_colour = dict(zip(COLOURS, classifier.probabilities(features[:, None])["defect"], strict=True))
    scores = np.stack([by_colour[colour] for _, colour in pairs])
    np.testing.assert_allclose(result.probabilities["defect"], scores, atol=1e-5)
    metrics = result.metrics["defect"]
    assert metrics.n == 6 and metrics.top1 == pytest.approx(4 / 6)
    assert metrics.confusion == ((1, 0, 1), (0, 2, 0), (0, 1, 1))
    assert metrics.macro_f1 == pytest.approx((2 / 3 + 4 / 5 + 1 / 2) / 3)
    worst = [error.told for error in result.errors["defect"]]
    assert {(e["path"], e["true"], e["predicted"]) for e in worst} == {
        ("1.png", "red", "blue"),
        ("4.png", "blue", "green"),
    }
    assert [e["score"] for e in worst] == pytest.approx(
        sorted((scores[1].max(), scores[4].max()), reverse=True), abs=1e-5
    )
    assert result.metrics["level"].mean_absolute_level_error is not None and metrics.mean_absolute_level_error is None
    assert result.unreadable == []


def test_a_clip_of_several_windows_counts_once_by_its_mean(tmp_path: Path) -> None:
    clip = Path(write_video(tmp_path / "c.mp4", ("red", "red", "blue")))
    table = Table(tmp_path, "action", (Sample(clip, "c.mp4", {"action": "red"}),))
    with colour_classifier(ACTION) as classifier:
        windows = evaluate(classifier, table, InferSettings(window_s=1.0, workers=1)).probabilities["action"]
    assert windows.shape == (1, 3)
    np.testing.assert_allclose(windows[0], [2 / 3, 0, 1 / 3], atol=0.03)


def test_data_of_one_class_give_its_recall(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Data of a single class give the recall of this class.

    The recall answers how many defects are found. Other classes that the model knows have no sample, so that
    there is no average precision.
    """
    root = tmp_path / "found"
    (root / "red").mkdir(parents=True)
    for number, shown in enumerate(("red", "red", "blue", "red")):
        write_photo(root / "red" / f"{number}.png", shown)
    table = load_table(root, "action", min_labels=1)
    with colour_classifier(ACTION) as classifier:
        result = evaluate(classifier, table, ONE)
        with pytest.raises(DataError, match="has no sample to score"):
            evaluate(classifier, table.of_split("test"), ONE)
    metrics = result.metrics["action"]
    red, green, blue = metrics.per_class
    assert (metrics.n, metrics.top1, red.recall, red.precision, red.support) == (4, 0.75, 0.75, 1.0, 4)
    assert (green.support, green.recall, blue.support, blue.precision) == (0, 0, 0, 0)
    assert metrics.confusion == ((3, 0, 1), (0, 0, 0), (0, 0, 0))
    assert metrics.mean_average_precision is None and red.ap is None
    assert metrics.macro_f1 == pytest.approx((2 * 3 / 7 + 0) / 2) and 0 <= metrics.ece <= 1
    write_evaluation(result, tmp_path / "eval.json")
    assert (
        json.loads((tmp_path / "eval.json").read_text(encoding="utf-8"))["metrics"]["action"]["mean_average_precision"]
        is None
    )
    assert (tmp_path / "eval-confusion-action.png").is_file()
    print_evaluation(result, as_json=False)
    assert "0.750" in capsys.readouterr().out and "mAP=n/a" in repr(metrics)


def test_unreadable_samples_are_listed_and_the_others_keep_their_order(tmp_path: Path) -> None:
    table = photo_table(tmp_path, ("red", "red"), ("green", "green"), ("blue", "blue"))
    table.samples[1].path.write_bytes(b"")
    with colour_classifier(RISK) as classifier:
        result = evaluate(classifier, table, ONE)
        assert result.metrics["defect"].n == 2 and result.metrics["defect"].top1 == 1
        assert [(row["path"], row["state"]) for row in result.unreadable] == [
            ("1.png", "corrupt")
        ] and result.unreadable[0]["reason"]
        for sample in table.samples:
            sample.path.write_bytes(b"")
        with pytest.raises(DataError, match="none of 3 samples can be read"):
            evaluate(classifier, table, ONE)


def test_a_label_that_the_model_does_not_know(tmp_path: Path) -> None:
    table = photo_table(tmp_path, ("red", "red"))
    odd = table.with_samples(
        [*table.samples, Sample(table.samples[0].path, "odd.png", {"defect": "mould", "level": "严重"})]
    )
    with colour_classifier(RISK) as classifier, pytest.raises(DataError, match="mould"):
        evaluate(classifier, odd, ONE)


def test_json_and_plots_are_written(tmp_path: Path) -> None:
    table = photo_table(tmp_path, ("red", "red"), ("blue", "blue"))
    with colour_classifier(RISK) as classifier:
        result = evaluate(classifier, table, ONE)
    write_evaluation(result, tmp_path / "new" / "eval.json")
    content = json.loads((tmp_path / "new" / "eval.json").read_text(encoding="utf-8"))
    assert content["metrics"]["defect"]["top1"] == 1 and content["provenance"]["model"] == "colours.bundle"
    for target in ("defect", "level"):
        assert (tmp_path / "new" / f"eval-confusion-{target}.png").read_bytes().startswith(b"\x89PNG")


def test_certain_answers_are_compared_with_the_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Certain answers are compared with the true labels.

    Grey reaches no threshold. One of the five answers is wrong, and it is left out together with the uncertain
    ones.
    """
    table = photo_table(
        tmp_path, ("red", "red"), ("red", "grey"), ("green", "green"), ("blue", "blue"), ("blue", "grey")
    )
    with colour_classifier(RISK) as classifier:
        result = evaluate(classifier, table, ONE)
    found = result.certainty["defect"]
    assert (found.asked, found.coverage, found.kept, found.kept_samples, found.samples) == (0.9, 0.6, 0.6, 3, 5)
    assert (found.accuracy_of_kept, found.accuracy) == (1.0, 0.8)
    assert found.coverage_interval is not None and 0 < found.coverage_interval[0] < 0.6 < found.coverage_interval[1] < 1
    level = result.certainty["level"]
    assert (level.coverage, level.kept, level.reason) == (None, None, "no samples") and level.curve.kept[-1] == 1
    write_evaluation(result, tmp_path / "eval.json")
    content = json.loads((tmp_path / "eval.json").read_text(encoding="utf-8"))["certainty"]["defect"]
    assert content["accuracy_of_kept"] == 1 and content["curve"]["error"][-1] == pytest.approx(0.2)
    assert (tmp_path / "eval-risk-level.png").read_bytes().startswith(b"\x89PNG")
    print_evaluation(result, as_json=False)
    out = capsys.readouterr().out
    assert "60.0%" in out and "no threshold for level: no samples" in out


def test_a_model_without_thresholds_has_the_curve_all_the_same(tmp_path: Path) -> None:
    table = photo_table(tmp_path, ("red", "red"), ("blue", "green"))
    with colour_classifier(RISK, threshold=None) as classifier:
        found = evaluate(classifier, table, ONE).certainty["defect"]
    assert (found.coverage, found.kept, found.accuracy_of_kept, found.accuracy) == (None, None, None, 0.5)
    assert found.reason == "a run has no thresholds; export fits them" and found.curve.error[-1] == 0.5


def test_a_page_that_cannot_be_built_leaves_the_figures(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_colour_bundle(tmp_path / "colours.bundle").root
    for label, shown in (("red", "blue"), ("green", "green"), ("blue", "blue")):
        (tmp_path / "data" / label).mkdir(parents=True)
        write_video(tmp_path / "data" / label / "a.mp4", (shown,))

    def refuse(workers: int) -> DecodePool:
        raise RuntimeFailure("decode processes cannot be started")

    monkeypatch.setattr("vidrisk.report.errors.DecodePool", refuse)
    end = cli("eval", bundle, tmp_path / "data", "-o", tmp_path / "e.json", "--json", "--runtime", "onnxruntime")
    assert end.code == 1 and "decode processes cannot be started" in end.stderr
    assert json.loads(end.stdout) == json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert json.loads(end.stdout)["worst_errors"]["action"][0]["predicted"] == "blue"
