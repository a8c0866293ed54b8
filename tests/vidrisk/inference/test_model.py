"""Tests of opening a model.

They cover the choice of the engine, the engines that are built first, and clips to probabilities in one call.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour import ACTION, colour_classifier
from colour_bundle import write_colour_bundle
from small_media import write_photo

from vidrisk.inference import open_stages as module
from vidrisk.inference.model import open_classifier
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.sources import find_inputs
from vidrisk.report import build_report
from vidrisk.runtimes import Runner, open_runner
from vidrisk.runtimes.contract.bundle import MANIFEST, Bundle
from vidrisk.runtimes.contract.errors import EngineMissing, RuntimeFailure, SettingsError
from vidrisk.runtimes.runner import Array, Arrays
from vidrisk.runtimes.uncertainty import OLD_BUNDLE, Uncertainty


def test_a_clip_in_one_call() -> None:
    clips = np.random.default_rng(0).integers(0, 256, (3, ACTION.frames, *ACTION.pixel.frame_shape), dtype=np.uint8)
    with colour_classifier(ACTION) as classifier:
        features = np.stack([classifier.features(clip) for clip in clips])
        for target, expected in classifier.probabilities(features).items():
            np.testing.assert_array_equal(classifier.classify(clips)[target], expected)
            assert classifier.classify(clips[:1])[target].shape == (1, expected.shape[1])


def slow_down(runner: Runner, enter: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make every call wait 0.2 s after ``enter``, and return the list of the runner's actions so far."""
    events: list[str] = []
    infer, close = runner._infer, runner.close

    def slow(feed: Mapping[str, Array]) -> Arrays:
        enter()
        time.sleep(0.2)
        events.append("answered")
        return infer(feed)

    monkeypatch.setattr(runner, "_infer", slow)
    monkeypatch.setattr(runner, "close", lambda: (events.append("closed"), close()))
    return events


def test_closing_waits_for_whoever_is_being_answered_and_refuses_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = colour_classifier(ACTION)
    clips = np.zeros((1, ACTION.frames, *ACTION.pixel.frame_shape), np.uint8)
    inside = threading.Event()
    events = slow_down(classifier.runners[0], inside.set, monkeypatch)
    for ask in (lambda: classifier.encode(clips[0]), lambda: classifier.classify(clips)):
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(ask)
            assert inside.wait(10)
            assert threads.submit(ask).result(10)  # they take turns
            first.result()
        inside.clear()
    assert events == ["answered"] * 4
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(classifier.encode, clips[0])
        assert inside.wait(10)
        classifier.close()
        assert events[-2:] == ["answered", "closed"] and running.result().keys() == {"features"}
    for ask in (lambda: classifier.encode(clips[0]), lambda: classifier.classify(clips)):
        with pytest.raises(RuntimeFailure, match=r"^the model is closed; fix: load it again$"):
            ask()
    classifier.close()
    assert events.count("closed") == 1


def test_closing_waits_for_all_calls_of_a_concurrent_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = colour_classifier(ACTION, is_concurrent=True)
    frames = np.zeros((1, *ACTION.pixel.frame_shape), np.uint8)
    inside = threading.Barrier(3, timeout=30)
    events = slow_down(classifier.runners[0], inside.wait, monkeypatch)
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(classifier.encode, frames) for _ in range(2)]
        inside.wait()
        for closing in [threads.submit(classifier.close) for _ in range(2)]:
            closing.result(30)
        assert events == ["answered", "answered", "closed"]
        assert all(call.result().keys() == {"features"} for call in calls)


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Return a function that makes ONNX Runtime stand in for TensorRT and returns the list of built engines.

    An engine exists only after it has been built.
    """

    def prepare(**settings: Any) -> list[Any]:
        built: list[Any] = []

        def opened(bundle: Bundle, graph: str, *, runtime: str, variant: Any, threads: int | None) -> Runner:
            if runtime == "tensorrt" and (variant, graph) not in built:
                raise EngineMissing(f"no tensorrt engine of {graph}.{variant}.onnx: none has been built yet")
            return open_runner(bundle, graph, runtime="onnxruntime", variant=variant, threads=threads)

        def ensured(bundle: Bundle, kind: str, variants: list[str], on_progress: Callable[..., None]) -> None:
            if settings.get("fails"):
                raise RuntimeFailure("the builder refuses a layer")
            on_progress(f"building {kind}", 1, 1)
            built.extend((variant, graph) for variant in variants for graph in ("encoder", "head"))

        monkeypatch.setattr(module, "open_runner", opened)
        monkeypatch.setattr("vidrisk.runtimes.tensorrt.build.engines.ensure_engines", ensured)
        return built

    return prepare


def test_engines_are_built_before_they_are_opened(any_bundle: Path, tensorrt: Callable[..., list[Any]]) -> None:
    built, told = tensorrt(), []
    with open_classifier(
        any_bundle, runtime="tensorrt", variant="int8", threads=1, on_progress=lambda *progress: told.append(progress)
    ) as classifier:
        assert classifier.classify(np.zeros((1, 2, 64, 64, 3), np.uint8))["action"].shape == (1, 3)
    assert built == [("int8", "encoder"), ("int8", "head")] and told == [("building tensorrt", 1, 1)]
    with open_classifier(any_bundle, runtime="tensorrt", variant="int8", threads=1):
        assert len(built) == 2


def test_auto_builds_what_it_measures(
    any_bundle: Path, tensorrt: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path))
    built = tensorrt()
    with open_classifier(any_bundle, runtime="tensorrt", threads=1) as classifier:
        assert classifier.variant in ("fp32", "int8")
    assert {variant for variant, _ in built} == {"fp32", "int8"}


def test_an_engine_that_cannot_be_built_is_an_error_where_it_was_asked_for(
    any_bundle: Path, tensorrt: Callable[..., list[Any]]
) -> None:
    tensorrt(fails=True)
    with pytest.raises(RuntimeFailure, match="the builder refuses a layer"):
        open_classifier(any_bundle, runtime="tensorrt", variant="int8")


def test_what_cannot_be_read_by_what(tiny_bundle: Path, tiny_run: Path) -> None:
    with pytest.raises(
        SettingsError, match="is a bundle, which torch cannot read; allowed: auto, onnxruntime, openvino"
    ):
        open_classifier(tiny_bundle, runtime="torch")
    with pytest.raises(
        SettingsError, match="is a run, which torch alone can read; allowed: runtime torch, variant fp32"
    ):
        open_classifier(tiny_run, runtime="tensorrt")


def test_thresholds_come_from_the_bundle_or_the_reason_why_there_are_none(tmp_path: Path) -> None:
    """Thresholds come from the bundle; if it has none, the reason is reported.

    An older bundle has no thresholds. Uncertain predictions are then unknown, and the report says so.
    """
    bundle = write_colour_bundle(tmp_path / "colours.bundle")
    described = json.loads((bundle.root / MANIFEST).read_text(encoding="utf-8"))
    variant = described["variants"]["fp32"]

    def uncertainty_of(**change: Any) -> Uncertainty:
        described["variants"]["fp32"] = {name: value for name, value in (variant | change).items() if value is not None}
        (bundle.root / MANIFEST).write_text(json.dumps(described), encoding="utf-8")
        with open_classifier(bundle.root, runtime="onnxruntime") as classifier:
            return classifier.uncertainty

    assert uncertainty_of() == Uncertainty(None, {"action": (0.4, 0.4, 0.4)}, {})
    own = uncertainty_of(coverage=0.9, label_threshold={"action": {"green": 0.2}})
    assert own == Uncertainty(0.9, {"action": (0.4, 0.2, 0.4)}, {})
    few = uncertainty_of(threshold={}, no_threshold={"action": "5 validation samples"})
    assert few == Uncertainty(None, {}, {"action": "5 validation samples"})
    old = uncertainty_of(threshold=None, label_threshold=None, coverage=None, no_threshold=None)
    assert old == Uncertainty(None, {}, {"action": OLD_BUNDLE})
    write_photo(tmp_path / "a.png", "red")
    with open_classifier(bundle.root, runtime="onnxruntime") as classifier:
        summary = run_folder(classifier, find_inputs([tmp_path / "a.png"]), tmp_path / "out")
    assert (summary.uncertain, summary.why_unknown) == (None, OLD_BUNDLE)
    assert f"not known: {OLD_BUNDLE}" in build_report(tmp_path / "out").read_text(encoding="utf-8")
