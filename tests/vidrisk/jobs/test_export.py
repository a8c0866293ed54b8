from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidrisk.data import Table, load_table
from vidrisk.export.trained import ExportOptions
from vidrisk.frames import Clip, read_clips
from vidrisk.inference.model import open_classifier
from vidrisk.jobs.evaluate import Evaluation, evaluate
from vidrisk.jobs.export import ReadFrames, export_run
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.models.run import Run
from vidrisk.runtimes.contract.bundle import Bundle
from vidrisk.runtimes.contract.errors import BundleError, DataError, GateRefused, SettingsError
from vidrisk.runtimes.registry import installed_runtimes


@pytest.fixture(scope="module")
def table(clip_folder: Path) -> Table:
    return load_table(clip_folder, "action")


@pytest.fixture(scope="module")
def torchs(tiny_run: Path, table: Table) -> Evaluation:
    with open_classifier(tiny_run) as classifier:
        return evaluate(classifier, table, InferSettings(workers=1))


@pytest.mark.parametrize("runtime", installed_runtimes())
def test_the_bundle_agrees_with_the_run_in_every_runtime(
    tiny_bundle: Path, table: Table, torchs: Evaluation, runtime: str
) -> None:
    for variant, tolerance in (("fp32", 1e-4), ("int8", 0.3)):
        with open_classifier(tiny_bundle, runtime=runtime, variant=variant, threads=1) as classifier:
            found = evaluate(classifier, table, InferSettings(workers=1))
        assert (found.runtime, found.variant) == (runtime, variant)
        np.testing.assert_allclose(found.probabilities["action"], torchs.probabilities["action"], atol=tolerance)
        assert (found.probabilities["action"].argmax(1) == torchs.probabilities["action"].argmax(1)).mean() >= (
            1 if variant == "fp32" else 0.9
        )


def test_the_bundle_keeps_the_runs_contract(tiny_run: Path, tiny_bundle: Path) -> None:
    assert Bundle.open(tiny_bundle).contract.digest == Run.open(tiny_run).contract.digest
    assert Bundle.open(tiny_bundle).passed == ("fp32", "int8")


@pytest.mark.parametrize(
    ("model", "runtime", "variant"),
    [("run", "onnxruntime", "auto"), ("run", "auto", "int8"), ("bundle", "torch", "auto")],
)
def test_a_runtime_that_cannot_read_the_model(
    tiny_run: Path, tiny_bundle: Path, model: str, runtime: str, variant: str
) -> None:
    with pytest.raises(SettingsError, match="allowed"):
        open_classifier(tiny_run if model == "run" else tiny_bundle, runtime=runtime, variant=variant)


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle: it does not exist"):
        open_classifier(tmp_path / "none")


class TakenError(Exception):
    """Error that ends a test where the export begins, as the export itself is tested elsewhere."""


@pytest.fixture
def calibration_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., ReadFrames]:
    """Return a function that returns the calibration frames of an export for a run and options."""
    taken: list[Any] = []

    def take(trained: Any, out: Any, validation: Any, calibration: Any, *rest: Any) -> None:
        taken.append(calibration)
        raise TakenError

    monkeypatch.setattr("vidrisk.jobs.export.MIN_CALIBRATION", 1)  # the clips here are few

    def run(path: Path, **options: Any) -> ReadFrames:
        monkeypatch.setattr("vidrisk.jobs.export.export_bundle", take)
        with pytest.raises(TakenError):
            export_run(path, tmp_path / "out", ExportOptions(int8=True), **options)
        return taken[-1]  # type: ignore[no-any-return]

    return run


Calibration = Callable[..., ReadFrames]


def test_calibration_takes_the_samples_that_were_asked_for(tiny_run: Path, calibration_of: Calibration) -> None:
    found = calibration_of(tiny_run, calib_samples=6)
    frames = np.stack(list(found))
    assert frames.shape == (found.count, 64, 64, 3) == (12, 64, 64, 3) and frames.dtype == np.uint8
    assert np.array_equal(frames, np.stack(list(found)))  # asked for again
    again, other = calibration_of(tiny_run, calib_samples=6), calibration_of(tiny_run, calib_samples=6, seed=1)
    assert again.digest == found.digest and again.samples == found.samples
    assert other.digest != found.digest
    counts = Counter(sample.labels["action"] for sample in found.samples)
    assert set(counts.values()) == {2}  # of three classes


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Return a list to which the path of every decoded file is appended; the cache is empty at first."""
    paths: list[Path] = []

    def read(path: Path, *specs: Any) -> Iterator[Clip]:
        paths.append(path)
        return read_clips(path, *specs)

    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("vidrisk.frames.cached.read_clips", read)
    return paths


def test_a_sample_is_decoded_once_however_many_passes_and_exports_there_are(
    tiny_run: Path, calibration_of: Calibration, decoded: list[Path]
) -> None:
    found = calibration_of(tiny_run, calib_samples=6)
    frames = np.stack(list(found))
    assert np.array_equal(frames, np.stack(list(found)))
    assert {sample.path for sample in found.samples} < set(decoded)  # and the validation samples
    assert max(Counter(decoded).values()) == 1
    decoded.clear()
    again = calibration_of(tiny_run, calib_samples=6)
    assert np.array_equal(frames, np.stack(list(again))) and again.digest == found.digest
    assert decoded == []


def test_an_export_without_a_cache_sees_the_same_frames(
    tiny_run: Path, calibration_of: Calibration, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = np.stack(list(calibration_of(tiny_run, calib_samples=6)))
    monkeypatch.setenv("VIDRISK_CACHE_GB", "0")
    monkeypatch.setenv("VIDRISK_CACHE", os.devnull)
    decoded.clear()
    found = calibration_of(tiny_run, calib_samples=6)
    assert np.array_equal(kept, np.stack(list(found)))
    assert {sample.path for sample in found.samples} < set(decoded)


def test_calibration_frames_are_not_held(
    tiny_run: Path, write_clip: Callable[..., Path], tmp_path: Path, calibration_of: Calibration
) -> None:
    """The memory of a calibration pass does not grow with the number of samples."""
    for number in range(60):
        write_clip(tmp_path / "calib" / ("red", "蓝色 🎥")[number % 2] / f"{number}.mp4", (200, 0, 0), seed=number)
    found = calibration_of(tiny_run, calib=load_table(tmp_path / "calib", "action"), calib_samples=60)
    one_sample = 2 * 64 * 64 * 3
    tracemalloc.start()
    try:
        count = sum(frame.shape == (64, 64, 3) for frame in found)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == found.count == 120
    assert peak < 10 * one_sample  # of 60


def test_what_judges_the_model_never_calibrates_it(
    tiny_run: Path,
    table: Table,
    tmp_path: Path,
    calibration_of: Calibration,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    splits = Run.open(tiny_run).read_split()
    with pytest.raises(DataError, match=r"\d of 24 calibration samples are in a test split; fix: leave calib out"):
        export_run(tiny_run, tmp_path / "other", ExportOptions(int8=True), calib=table)
    train, val = splits.of_split("train"), splits.of_split("val")
    both = splits.with_samples([*train.samples, *val.samples])
    assert calibration_of(tiny_run, calib=both, calib_samples=99).count == 2 * len(train)
    assert f"{len(val)} of {len(both)} samples are validation samples of the gate" in caplog.text
    with pytest.raises(
        DataError,
        match=rf"all {len(val)} samples are validation samples of the gate; allowed: samples that are not in val",
    ):
        export_run(tiny_run, tmp_path / "other", ExportOptions(int8=True), calib=val)
    with pytest.raises(DataError, match="validation samples are in the run's training split; fix: leave val out"):
        export_run(
            tiny_run,
            tmp_path / "other",
            ExportOptions(int8=True),
            val=splits.with_samples([replace(sample, split=None) for sample in train.samples]),
        )
    with pytest.raises(DataError, match="5 calibration samples; allowed: at least 16"):
        monkeypatch.setattr("vidrisk.jobs.export.MIN_CALIBRATION", 16)
        export_run(tiny_run, tmp_path / "other", ExportOptions(int8=True), calib_samples=5)


def test_an_unreadable_calibration_sample_is_replaced_and_said(
    tiny_run: Path,
    write_clip: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    calibration_of: Calibration,
) -> None:
    for number in range(3):
        write_clip(tmp_path / "calib" / "red" / f"{number}.mp4", (200, 0, 0), seed=number)
        write_clip(tmp_path / "calib" / "蓝色 🎥" / f"{number}.mp4", (0, 0, 200), seed=number)
    (tmp_path / "calib" / "red" / "0.mp4").write_bytes(b"")
    table = load_table(tmp_path / "calib", "action")
    for seed in range(4):  # in some of them the broken one would be among the first four
        assert len(calibration_of(tiny_run, calib=table, calib_samples=4, seed=seed).samples) == 4
    assert "1 samples cannot be read" in caplog.text
    assert len(calibration_of(tiny_run, calib=table, calib_samples=99).samples) == 5
    for path in (tmp_path / "calib").rglob("*.mp4"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of 6 samples can be read"):
        export_run(tiny_run, tmp_path / "out", ExportOptions(int8=True), calib=load_table(tmp_path / "calib", "action"))


def test_labels_that_were_swapped_after_training_are_caught(tiny_run: Path, table: Table, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_run, tmp_path / "copy"))
    run = Run.open(copy)
    everything = [replace(sample, split="val") for sample in table.samples]  # two samples would prove nothing
    run.write_split(table.with_samples(everything))
    labels = json.loads((copy / "labels.json").read_text(encoding="utf-8"))
    names = labels["targets"][0]["labels"]
    labels["targets"][0]["labels"] = [*names[1:], names[0]]
    (copy / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    with pytest.raises(GateRefused, match="the gate refused training → adapter") as refusal:
        export_run(copy, tmp_path / "out", ExportOptions())
    assert "label order" in str(refusal.value) and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_quantisation_aware_finish_skips_what_training_could_not_read(tiny_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_run, tmp_path / "copy"))
    run = Run.open(copy)
    splits = run.read_split()
    (tmp_path / "broken.mp4").write_bytes(b"")
    broken = replace(splits.of_split("train").samples[0], path=tmp_path / "broken.mp4", name="broken.mp4")
    run.write_split(splits.with_samples([*splits.samples, broken]))
    metrics = json.loads((copy / "metrics.json").read_text(encoding="utf-8"))
    metrics["unreadable"].append({"path": broken.name, "split": "train", "reason": "empty"})
    (copy / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    options = ExportOptions(int8=True, max_drop=50, allow_drop=True, qat_steps=2)
    bundle, report = export_run(copy, tmp_path / "bundle", options)
    assert bundle.path("head", bundle.passed[1]).name == "head.finished.onnx"
    assert "finished → onnx" in {hop.name for hop in report.hops}


def test_a_waived_variant_is_said_when_it_is_opened(
    tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    waived = Bundle.open(tiny_bundle).manifest.variants["int8"].waived
    with (
        caplog.at_level("WARNING", "vidrisk"),
        open_classifier(tiny_bundle, runtime="onnxruntime", variant="int8") as model,
    ):
        assert model.provenance.get("waived", "") == waived
        assert ("its gate would have refused it" in caplog.text) == bool(waived)


def test_damaged_metrics(tiny_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_run, tmp_path / "copy"))
    (copy / "metrics.json").write_text("[", encoding="utf-8")
    with pytest.raises(DataError, match=r"metrics\.json cannot be read"):
        export_run(copy, tmp_path / "out", ExportOptions())


def test_a_run_whose_data_moved_away_or_that_has_no_validation_samples(tiny_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_run, tmp_path / "copy"))
    run = Run.open(copy)
    table = run.read_split()
    run.write_split(table.with_samples(s for s in table.samples if s.split != "val"))
    with pytest.raises(DataError, match="no validation samples"):
        export_run(copy, tmp_path / "out", ExportOptions())
    run.write_split(
        table.with_samples(
            type(s)(tmp_path / "gone" / s.path.name, s.name, s.labels, split=s.split) for s in table.samples
        )
    )
    with pytest.raises(DataError, match="still be at its original path"):
        export_run(copy, tmp_path / "out", ExportOptions())


def test_an_out_that_exists_is_refused_before_anything_is_read(tiny_run: Path, tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(BundleError, match="exists"):
        export_run(tiny_run, tmp_path, ExportOptions(), on_progress=lambda what, done, total: told.append(what))
    assert told == []
