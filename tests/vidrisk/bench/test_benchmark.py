from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from PIL import Image

from vidrisk.bench.alone import Candidate
from vidrisk.bench.benchmark import _against_peak, run_bench
from vidrisk.bench.conditions import Peak
from vidrisk.bench.measurements import Bench, Row
from vidrisk.bench.output import check_output, write_bench
from vidrisk.bench.speed import BATCHES, Throughput
from vidrisk.export.convert.macs import macs_from_onnx
from vidrisk.runtimes import Bundle
from vidrisk.runtimes.contract.bundle import sha256_of
from vidrisk.runtimes.contract.errors import BundleError, DataError, RuntimeFailure, SettingsError
from vidrisk.runtimes.registry import installed_runtimes

FRAMES = 2


def rewritten(bundle: Path, to: Path, change: Callable[[dict[str, Any], Path], None]) -> Path:
    """Copy a bundle, change its manifest and any other files, seal it again, and return its path."""
    shutil.copytree(bundle, to)
    manifest = json.loads((to / "bundle.json").read_text(encoding="utf-8"))
    change(manifest, to)
    for name, sealed in manifest["files"].items():
        sealed.update(sha256=sha256_of(to / name), bytes=(to / name).stat().st_size)
    (to / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    return to


@pytest.fixture(scope="module")
def bench(tiny_bundle: Path, clip_folder: Path) -> Bench:
    """Return the result of the whole benchmark on labelled clips."""
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vidrisk.bench.data.BUDGET_S", 0.0)  # one round
        found = run_bench(
            tiny_bundle, clip_folder, threads=1, limit=9, on_progress=lambda what, done, total: told.append(what)
        )
    assert {
        "reading the files",
        "matrix products",
        "memory of each candidate",
        "latency of a frame",
        "latency of a clip",
        "best batch sizes",
        "throughput",
        "end to end, round 1",
        "accuracy",
    } <= set(told)
    return found


def test_the_manifest_says_how_much_is_computed(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    for stage in bundle.stages:
        assert stage.macs and {stage.macs} == {
            macs_from_onnx(onnx.load(str(bundle.path(stage.name, v)))) for v in ("fp32", "int8")
        }


def test_every_runtime_and_variant_is_measured(bench: Bench) -> None:
    assert [(row.runtime, row.variant) for row in bench.rows] == [
        (runtime, variant) for runtime in ("onnxruntime", "openvino") for variant in ("fp32", "int8")
    ]
    for row in bench.rows:
        assert (row.problem == "") == (row.runtime in installed_runtimes())
        if not row.problem:
            assert row.memory_mb and row.frame and row.clip and row.throughput and row.end_to_end
            assert row.frame.p50_ms <= row.frame.p95_ms and 20 <= row.frame.rounds <= 40
            assert tuple(row.throughput.frames_per_s) == BATCHES[: len(row.throughput.frames_per_s)]
    assert bench.fastest.throughput and bench.fastest.throughput.best_frames_per_s == max(
        row.throughput.best_frames_per_s for row in bench.rows if row.throughput
    )


def test_each_is_held_against_the_peak_of_its_precision(bench: Bench) -> None:
    assert bench.macs_per_frame
    for row in bench.rows:
        if row.throughput:
            rate = bench.macs_per_frame * row.throughput.best_frames_per_s / 1e9
            assert row.gmac_per_s == pytest.approx(rate, abs=0.01)
            peak = bench.peaks[row.variant].gmac_per_s
            assert row.of_peak == (pytest.approx(rate / peak, rel=0.01) if peak else None)


def test_data_gives_the_whole_way_and_accuracy(bench: Bench) -> None:
    assert bench.data and (bench.data.found, bench.data.used, bench.data.unlabelled) == (24, 9, "")
    held = bench.data.decode.held
    assert (held.clips, held.unreadable) == (9, 0) and held.frames == 9 * FRAMES == 9 * bench.frames_per_clip
    for row in bench.rows:
        if not row.problem:
            assert row.end_to_end and row.end_to_end.clips_per_s > 0
            assert row.accuracy["action"]["n"] == 9 and row.accuracy["action"]["top1"] > 0.6


def test_json_and_plot_are_written(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "new" / "bench.json"
    check_output(path)
    write_bench(bench, path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content == json.loads(bench.to_json())
    assert (
        content["machine"]["cores"]
        and content["rows"][0]["throughput"]["frames_per_s"]["1"] > 0
        and content["threads"] == 1
    )
    with Image.open(path.with_suffix(".png")) as image:
        assert image.format == "PNG" and len(set(image.convert("L").tobytes())) > 8


@pytest.mark.parametrize("name", ["bench.png", "."])
def test_an_output_that_cannot_be_written_is_refused_at_once(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="allowed: a JSON file"):
        check_output(tmp_path / name)


def test_what_does_not_run_is_listed_and_older_bundles_have_no_count(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage(manifest: dict[str, Any], root: Path) -> None:
        for stage in manifest["stages"]:
            del stage["macs"]
        (root / "encoder.int8.onnx").write_bytes(b"\x3a\x00")  # a model whose graph is empty

    monkeypatch.setattr("vidrisk.bench.benchmark.measure_peaks", lambda threads: {})
    old = rewritten(tiny_bundle, tmp_path / "old.bundle", damage)
    found = run_bench(old, runtime="onnxruntime")
    good, bad = found.rows
    assert (good.variant, good.problem) == ("fp32", "") and good.throughput and found.data is None
    assert (
        bad.variant == "int8"
        and bad.problem.startswith("ONNX Runtime cannot load encoder.int8.onnx")
        and bad.frame is None
    )
    assert found.macs_per_frame is good.gmac_per_s is good.of_peak is None
    with pytest.raises(
        RuntimeFailure, match=r"nothing can run old\.bundle here: onnxruntime int8: ONNX Runtime cannot load"
    ):
        run_bench(old, runtime="onnxruntime", variant="int8")


def test_what_is_asked_for_must_exist(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match="'tensorflow' cannot run a bundle; allowed: onnxruntime, openvino, tensorrt, "
    ):
        run_bench(tiny_bundle, runtime="tensorflow")
    with pytest.raises(BundleError, match="no variant 'mixed'; allowed: fp32, int8"):
        run_bench(tiny_bundle, variant="mixed")
    with pytest.raises(BundleError, match="is not a bundle"):
        run_bench(tmp_path)
    with pytest.raises(DataError, match="no clip or photo"):
        run_bench(tiny_bundle, tmp_path / "none")


def test_on_a_machine_with_a_gpu_its_runtimes_are_candidates(any_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(bundle: Path, candidate: Candidate, threads: int | None) -> None:
        raise RuntimeFailure(f"{candidate.runtime} fails")

    monkeypatch.setattr("vidrisk.runtimes.registry.visible_gpu", lambda: "Orin, CUDA 12.6")
    monkeypatch.setattr("vidrisk.bench.benchmark.footprint_of", fails)
    monkeypatch.setattr("vidrisk.bench.benchmark.measure_peaks", lambda threads: {})
    with pytest.raises(RuntimeFailure) as caught:
        run_bench(any_bundle, variant="int8")
    for runtime in ("onnxruntime", "openvino", "onnxruntime-cuda", "onnxruntime-tensorrt"):
        assert f"{runtime} int8: {runtime} fails" in str(caught.value)
    for runtime in ("tensorrt", "tensorrt-rtx"):  # its engines are built before it is started
        assert f"{runtime} int8: " in str(caught.value) and f"{runtime} int8: {runtime} fails" not in str(caught.value)


def test_a_gpu_is_not_held_against_the_processor() -> None:
    peaks = {"fp32": Peak(10.0, ""), "int8": Peak(20.0, "")}
    rows = [Row(runtime, "int8", throughput=Throughput({1: 5.0}, "")) for runtime in ("openvino", "tensorrt")]
    of_processor, of_gpu = (_against_peak(row, 10**9, peaks, "int8") for row in rows)
    assert (of_processor.gmac_per_s, of_processor.of_peak) == (5.0, 0.25)
    assert (of_gpu.gmac_per_s, of_gpu.of_peak) == (5.0, None)
