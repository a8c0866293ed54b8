"""Tests of the main workflow as a user types it: train, eval, export, infer and report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


def test_train_leaves_the_whole_run(tiny_run: Path) -> None:
    assert {path.name for path in tiny_run.iterdir()} == {
        "config.yaml",
        "adapter",
        "head.safetensors",
        "labels.json",
        "metrics.json",
        "split.parquet",
        "tensorboard",
        "plots",
        "checkpoints",
    }
    assert {path.name for path in (tiny_run / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert {path.name for path in (tiny_run / "plots").iterdir()} == {
        "loss.png",
        "metric.png",
        "confusion-val-action.png",
        "confusion-test-action.png",
    }
    assert all((tiny_run / "plots" / name).read_bytes().startswith(b"\x89PNG") for name in ("loss.png", "metric.png"))
    assert any((tiny_run / "tensorboard").iterdir())


def test_train_learns_and_prints_its_metrics(tiny_run: Path) -> None:
    metrics = json.loads((tiny_run / "metrics.json").read_text(encoding="utf-8"))
    losses = [
        epoch["val_loss"] for epoch in metrics["epochs"]
    ]  # those of training samples are of other views in every epoch
    assert losses[-1] < losses[0] and metrics["val"]["action"]["top1"] > 0.5
    assert sum(metrics["samples"].values()) == 24 and metrics["unreadable"] == []


def test_labels_keep_comma_and_emoji(tiny_run: Path) -> None:
    labels = json.loads((tiny_run / "labels.json").read_text(encoding="utf-8"))
    assert set(labels["targets"][0]["labels"]) == {"red", "green, dark", "蓝色 🎥"} and labels["clips"]


def test_export_ships_both_variants(tiny_bundle: Path) -> None:
    assert {path.name for path in tiny_bundle.iterdir()} == {
        "bundle.json",
        "encoder.fp32.onnx",
        "encoder.int8.onnx",
        "head.fp32.onnx",
        "gate.json",
        "gate.html",
        "golden.zip",
    }
    gate = json.loads((tiny_bundle / "gate.json").read_text(encoding="utf-8"))
    assert all(hop["passed"] for hop in gate["hops"]) and "few" in gate["note"]


@pytest.mark.parametrize("kind", ["run", "bundle"])
def test_eval(cli: Cli, tiny_run: Path, tiny_bundle: Path, clip_folder: Path, tmp_path: Path, kind: str) -> None:
    model = tiny_run if kind == "run" else tiny_bundle
    end = cli("eval", model, clip_folder, "-o", tmp_path / "eval.json", "--json")
    assert (end.code, end.stderr) == (0, "")
    told = json.loads(end.stdout)
    assert told == json.loads((tmp_path / "eval.json").read_text(encoding="utf-8"))
    assert told["metrics"]["action"]["n"] == 24 and told["metrics"]["action"]["top1"] > 0.8
    assert told["runtime"] == ("torch" if kind == "run" else told["runtime"])
    assert all(
        (tmp_path / f"eval-{plot}-action.png").read_bytes().startswith(b"\x89PNG") for plot in ("confusion", "risk")
    )
    certainty = told["certainty"]["action"]
    assert certainty["kept"] is None and certainty["reason"] and certainty["curve"]["kept"][-1] == 1


def test_eval_prints_a_table(cli: Cli, tiny_bundle: Path, clip_folder: Path) -> None:
    end = cli("eval", tiny_bundle, clip_folder, "--variant", "fp32", "--runtime", "onnxruntime")
    assert (
        end.code == 0 and "macro-F1" in end.stdout and "green, dark" in end.stdout and "onnxruntime fp32" in end.stdout
    )


def test_eval_of_a_split(cli: Cli, tiny_run: Path, clip_folder: Path, tmp_path: Path) -> None:
    manifest = clip_folder / "split.jsonl"
    try:
        assert cli("data", "split", clip_folder, "-o", manifest).code == 0
        end = cli("eval", tiny_run, manifest, "--split", "test", "--json")
    finally:
        manifest.unlink()
    assert end.code == 0 and 0 < json.loads(end.stdout)["metrics"]["action"]["n"] < 24


def test_infer_writes_predictions_and_the_report(
    cli: Cli, tiny_bundle: Path, clip_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "报告 out"
    end = cli("infer", tiny_bundle, clip_folder, "-o", out, "--json")
    assert (end.code, end.stderr) == (0, "")
    assert json.loads(end.stdout)["states"] == {"ok": 24}
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 24
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "蓝色 🎥" in page and "green, dark" in page


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("bundle", "validation samples; a coverage of 90 % needs at least 10"),
        ("run", "a run has no thresholds; export fits them"),
    ],
)
def test_a_model_that_cannot_tell_what_is_uncertain_says_so(
    cli: Cli, tiny_run: Path, tiny_bundle: Path, clip_folder: Path, tmp_path: Path, kind: str, reason: str
) -> None:
    """Without a threshold, the output gives the reason, and does not claim that 0 answers are uncertain.

    The bundle has no threshold because there are too few clips. A run never has one.
    """
    end = cli("infer", tiny_run if kind == "run" else tiny_bundle, clip_folder / "red", "-o", tmp_path / "out")
    assert end.code == 0 and "– uncertain" in end.stdout and reason in " ".join(end.stdout.split())
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["uncertain"] is None and summary["no_threshold"]["action"].endswith(reason)
    line = json.loads((tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert line["uncertain"] is None and line["candidates"] == {}
    assert f"not known: {summary['no_threshold']['action']}" in (tmp_path / "out" / "report.html").read_text(
        encoding="utf-8"
    )


def test_infer_takes_a_run(cli: Cli, tiny_run: Path, clip_folder: Path, tmp_path: Path) -> None:
    end = cli("infer", tiny_run, clip_folder / "red", "-o", tmp_path / "out", "--json", "--no-report")
    assert end.code == 0 and json.loads(end.stdout)["runtime"] == "torch"


def test_data_preview(cli: Cli, clip_folder: Path, tmp_path: Path) -> None:
    end = cli("data", "preview", clip_folder, "-o", tmp_path / "sheet.png", "--per-class", "2", "--json")
    assert end.code == 0 and json.loads(end.stdout)["counts"]["action"]["red"] == {"unsplit": 8}
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
