from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from colour import ACTION, COLOURS, RISK, colour_classifier
from small_media import write_photo, write_video

from vidrisk.data import Sample, Table
from vidrisk.evaluate import evaluate, write_evaluation
from vidrisk.infer.pipeline import InferSettings
from vidrisk.runtimes.errors import DataError

ONE = InferSettings(workers=1)


def photo_table(folder: Path, *pairs: tuple[str, str]) -> Table:
    """(true colour, colour that is shown) → photos with labels."""
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
    worst = result.worst["defect"]
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
