"""An input for which the model gives no finite answer is recorded as failed.

The run raises no exception, writes no value that is not a number, and does not end early.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from colour import ACTION, RISK
from colour_bundle import write_colour_bundle
from small_media import write_photo, write_video

from vidrisk.bench.alone import run_alone
from vidrisk.data import Sample, Table, load_table
from vidrisk.files.cache import ArrayCache
from vidrisk.inference.input_views import Views
from vidrisk.inference.model import Classifier
from vidrisk.inference.predictions import read_predictions
from vidrisk.jobs.evaluate import evaluate
from vidrisk.jobs.ledger import read_ledger
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.saved_features import features_of
from vidrisk.jobs.sources import find_inputs
from vidrisk.jobs.summary import Summary
from vidrisk.report import build_report
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import EXIT_SOME_FAILED, DataError, RuntimeFailure
from vidrisk.runtimes.contract.stages import frame_encoder_stages
from vidrisk.runtimes.runner import Array, Arrays, FakeRunner

REASON = "the model gives no finite answer"


def fragile_classifier(contract: Contract = ACTION, *, breaks: str = "head", value: float = np.nan) -> Classifier:
    """Return a classifier of colours that fails on black: its encoder or head gives ``value`` in one place."""

    def encode(feed: Mapping[str, Array]) -> Arrays:
        means = np.stack([frame.mean((0, 1), dtype=np.float64) for frame in feed["frames"]]).astype(np.float32)
        if breaks == "encoder":
            means[means.max(axis=1) < 5, 1] = value
        return {"features": means}

    def judge(feed: Mapping[str, Array]) -> Arrays:
        features = np.where(
            np.isfinite(feed["features"]), feed["features"], 0
        )  # what breaks in the encoder does not show here
        logits = features.mean(1).astype(np.float32) / 32
        if breaks == "head":
            logits[features.max(axis=2).min(axis=1) < 5, 2] = value
        return {f"{target.name}_logits": logits for target in contract.targets}

    stages = frame_encoder_stages(contract, 3)
    runners = [
        FakeRunner(stage.inputs, stage.outputs, function)
        for stage, function in zip(stages, (encode, judge), strict=True)
    ]
    return Classifier(
        stages, runners, contract, variant="fp32", provenance={"model": "fragile.bundle", "digest": "1" * 64}
    )


def states(out: Path) -> dict[str, str]:
    return {Path(row.path).name: row.state for row in read_ledger(out)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("red", "black", "green", "blue"):
        write_photo(folder / f"{name}.png", name)
    return folder


@pytest.mark.parametrize("contract", [ACTION, RISK], ids=["action", "risk"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("breaks", ["encoder", "head"])
def test_one_photo_fails_and_the_others_do_not(
    photos: Path, tmp_path: Path, breaks: str, value: float, contract: Contract
) -> None:
    out = tmp_path / "out"
    settings = InferSettings(workers=2, save_features=True)
    with fragile_classifier(contract, breaks=breaks, value=value) as classifier:
        summary = run_folder(classifier, find_inputs([photos]), out, settings)
    assert states(out) == {"red.png": "ok", "black.png": "corrupt", "green.png": "ok", "blue.png": "ok"}
    assert (summary.failed, summary.predictions) == (1, 3)
    (black,) = [row for row in read_ledger(out) if row.state == "corrupt"]
    assert (black.reason, black.predictions) == (REASON, 0)
    predictions = {Path(p.path).stem: p for p in read_predictions(out)}
    assert {name: p.label for name, p in predictions.items()} == {name: name for name in ("red", "green", "blue")}
    kept = {Path(path).name: features for path, features, _ in features_of(out)}
    assert "black.png" not in kept and len(kept) == 3 and all(np.isfinite(each).all() for each in kept.values())
    assert "black.png" in build_report(out).read_text(encoding="utf-8")


def test_of_a_video_the_other_windows_count(tmp_path: Path) -> None:
    video, out = write_video(tmp_path / "v.avi", ("red", "black", "blue")), tmp_path / "out"
    settings = InferSettings(workers=1, window_s=1.0, save_features=True)
    with fragile_classifier(breaks="encoder", value=np.inf) as classifier:
        summary = run_folder(classifier, find_inputs([video]), out, settings)
    (row,) = read_ledger(out)
    assert (row.state, row.predictions, summary.failed) == ("partial", 2, 1)
    assert row.reason == f"{REASON} in 1 of 3 windows"
    assert [(p.start_s, p.label, p.state) for p in read_predictions(out)] == [
        (0.0, "red", "partial"),
        (2.0, "blue", "partial"),
    ]
    ((_, features, _),) = features_of(out)
    assert np.isnan(features[4:8, 1]).all() and np.isfinite(np.delete(features, range(4, 8), axis=0)).all()


def test_features_are_not_cached(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))
    for attempt in range(2):
        with fragile_classifier(breaks="encoder") as classifier:
            settings = InferSettings(workers=1, feature_cache=True)
            run_folder(classifier, find_inputs([photos]), tmp_path / f"out{attempt}", settings)
        assert states(tmp_path / f"out{attempt}")["black.png"] == "corrupt"
    cache = ArrayCache(tmp_path / "cache" / "arrays", 2**30)
    entries = [cache.get(f"{path.parent.name}{path.name}") for path in (tmp_path / "cache" / "arrays").glob("*/*")]
    features = [entry["features"] for entry in entries if entry and "features" in entry]
    assert len(features) == 3 and all(np.isfinite(each).all() for each in features)


def test_resume_takes_it_as_final(photos: Path, tmp_path: Path) -> None:
    def run(*, resume: bool) -> Summary:
        with fragile_classifier() as classifier:
            return run_folder(
                classifier, find_inputs([photos]), tmp_path / "out", InferSettings(workers=1, resume=resume)
            )

    first = run(resume=False)
    before = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    second = run(resume=True)
    assert first.states == second.states == {"ok": 3, "corrupt": 1}
    assert second.clips_per_s == 0 and (tmp_path / "out" / "predictions.jsonl").read_bytes() == before


def test_evaluation_lists_it_as_unreadable(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "labelled"
    for colour in ("red", "green", "blue"):
        (root / colour).mkdir(parents=True)
        write_photo(root / colour / "a.png", colour)
    write_photo(root / "red" / "black.png", "black")
    with fragile_classifier() as classifier:
        result = evaluate(classifier, load_table(root, "action"))
        assert result.unreadable == [{"path": "red/black.png", "state": "corrupt", "reason": REASON}]
        assert result.metrics["action"].n == 3 and result.metrics["action"].top1 == 1
        json.loads(result.to_json())
        only = load_table(root, "action")
        with pytest.raises(DataError, match=REASON):
            evaluate(classifier, only.with_samples(s for s in only.samples if s.name == "red/black.png"))


def test_a_bundle_on_a_real_engine(photos: Path, tmp_path: Path) -> None:
    write_colour_bundle(tmp_path / "nan.bundle", normalises=True)
    command = [sys.executable, "-m", "vidrisk"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "VIDRISK_CACHE": str(tmp_path / "cache")}

    def vidrisk(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    infer = ("infer", "nan.bundle", "photos", "-o", "out", "--runtime", "onnxruntime")
    for more in ((), ("--resume",)):
        end = vidrisk(*infer, *more)
        assert (end.returncode, end.stderr) == (EXIT_SOME_FAILED, "") and "3 ok, 1 corrupt" in end.stdout
    watch = (
        "watch",
        "photos",
        "-o",
        "days",
        "--bundle",
        "nan.bundle",
        "--settle",
        "0",
        "--once",
        "--runtime",
        "onnxruntime",
    )
    end = vidrisk(*watch)
    assert end.returncode == EXIT_SOME_FAILED and "4 files (" in end.stdout and "1 corrupt" in end.stdout
    end = vidrisk(*watch)
    assert (end.returncode, end.stdout) == (0, "")  # it is done, and not tried again


def test_a_bench_says_which_candidate_computes_nothing(tmp_path: Path) -> None:
    with fragile_classifier(breaks="encoder") as classifier:
        run_alone(classifier)  # noise is not black

    def nothing(feed: Mapping[str, Array]) -> Arrays:
        return {"features": np.full((len(feed["frames"]), 3), np.nan, np.float32)}

    stages = frame_encoder_stages(ACTION, 3)
    with fragile_classifier() as whole, pytest.raises(RuntimeFailure, match="computes non-finite values"):
        run_alone(
            Classifier(
                stages,
                [FakeRunner(stages[0].inputs, stages[0].outputs, nothing), whole.runners[1]],
                ACTION,
                variant="fp32",
                provenance={"digest": ""},
            )
        )


def test_rows_are_judged_alone() -> None:
    features = np.full((3, 4, 3), 100, np.float32)
    features[1] = 0
    with fragile_classifier() as classifier:
        scores = classifier.probabilities(features)["action"]
    assert np.isfinite(scores[[0, 2]]).all() and np.isnan(scores[1]).all()
    np.testing.assert_allclose(scores[0].sum(), 1, atol=1e-6)


def test_a_sample_that_lacks_a_view_is_unreadable(tmp_path: Path) -> None:
    some = Path(write_video(tmp_path / "some.avi", ("red", "red", "black", "red", "red", "red")))
    none = Path(write_video(tmp_path / "none.avi", ("red", "blue", "blue")))
    table = Table(
        tmp_path, "action", (Sample(some, "some.avi", {"action": "red"}), Sample(none, "none.avi", {"action": "blue"}))
    )
    with fragile_classifier() as classifier:
        result = evaluate(classifier, table, InferSettings(workers=1), views=Views(3))
    assert result.rows == (1,) and result.metrics["action"].n == result.one_view["action"].n == 1
    assert [(row["path"], row["state"], row["reason"]) for row in result.unreadable] == [
        ("some.avi", "partial", f"{REASON} in 2 of 3 windows")
    ]
