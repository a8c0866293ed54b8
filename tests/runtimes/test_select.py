"""Tests of ``auto``: it measures the variants that passed the gate, once per bundle and machine."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from vidrisk.runtimes import Bundle, Choice, Runner, choose, open_runner
from vidrisk.runtimes.contract.errors import BundleError, EngineMissing, MissingExtra, RuntimeFailure, SettingsError
from vidrisk.runtimes.folders import cache_folder
from vidrisk.runtimes.registry import file_runtimes, installed_runtimes, pairs_for
from vidrisk.runtimes.runner import Array, Arrays

MakeBundle = Callable[..., Bundle]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return the runtimes that are installed on a machine with a GPU."""
    monkeypatch.setattr("vidrisk.runtimes.registry.visible_gpu", lambda: "Fake GPU, CUDA 12.6")
    monkeypatch.setattr("vidrisk.runtimes.registry.find_installed_kinds", lambda: ("tensorrt",))
    monkeypatch.setattr("vidrisk.runtimes.registry.has_provider", lambda runtime: True)


def kept(cache: Path) -> list[Path]:
    return sorted((cache / "choices").iterdir()) if cache.exists() else []


def test_auto_measures_once_and_keeps_the_choice(
    make_bundle: MakeBundle, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = make_bundle()
    caplog.set_level(logging.INFO, "vidrisk.runtimes.select")
    first = choose(bundle, threads=1)
    assert first.ms_per_frame is not None
    assert first.ms_per_frame > 0
    measured = [r.getMessage() for r in caplog.records if "ms per frame" in r.getMessage()]
    assert len(measured) == len(installed_runtimes()) * 2 == 4
    caplog.clear()
    assert choose(bundle, threads=1) == first
    assert not caplog.records
    assert [p.suffix for p in kept(cache)] == [".json"]


def test_what_is_kept_is_believed(make_bundle: MakeBundle, cache: Path) -> None:
    bundle = make_bundle()
    choose(bundle)
    told = Choice("openvino", "int8", 0.001)
    kept(cache)[0].write_text(json.dumps({"runtime": "openvino", "variant": "int8", "ms_per_frame": 0.001}))
    assert choose(bundle) == told


def test_another_digest_or_thread_count_measures_again(make_bundle: MakeBundle, cache: Path) -> None:
    choose(make_bundle("one"), runtime="onnxruntime")
    choose(make_bundle("same"), runtime="onnxruntime")
    assert len(kept(cache)) == 1
    choose(make_bundle("three", variants=("fp32", "int8", "mixed"), refused=("mixed",)), runtime="onnxruntime")
    assert len(kept(cache)) == 2
    choose(make_bundle("again"), runtime="onnxruntime", threads=1)
    assert len(kept(cache)) == 3
    choose(make_bundle("other"))
    assert len(kept(cache)) == 4


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"runtime": "x"}',
        b'{"runtime": "onnxruntime", "variant": "mixed"}',
        b'{"runtime": "onnxruntime", "variant": "fp32", "sneaky": 1}',
    ],
)
def test_a_damaged_cache_is_measured_anew(make_bundle: MakeBundle, cache: Path, content: bytes) -> None:
    bundle = make_bundle()
    choose(bundle, runtime="onnxruntime")
    path = kept(cache)[0]
    path.write_bytes(content)
    assert choose(bundle, runtime="onnxruntime").ms_per_frame is not None
    assert json.loads(path.read_text())["runtime"] == "onnxruntime"


def test_a_cache_that_cannot_be_written_costs_nothing_else(make_bundle: MakeBundle, cache: Path) -> None:
    cache.write_text("a file where the folder should be", encoding="utf-8")
    assert choose(make_bundle(), runtime="onnxruntime").runtime == "onnxruntime"


def test_auto_considers_only_what_passed(make_bundle: MakeBundle, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vidrisk.runtimes.select")
    bundle = make_bundle(variants=("fp32", "fp16", "int8"), refused=("int8",))
    assert choose(bundle).variant in ("fp32", "fp16")
    assert not any("int8" in r.getMessage() for r in caplog.records)
    assert choose(bundle, runtime="openvino", variant="int8") == Choice(
        "openvino", "int8"
    )  # named: the user's own decision
    with pytest.raises(BundleError, match="no variant that passed the gate; allowed: fp32, int8"):
        choose(make_bundle("refused", refused=("fp32", "int8")))


def test_int8_is_the_one_for_the_engine_that_is_asked(make_bundle: MakeBundle) -> None:
    bundle = make_bundle(variants=("fp32", "int8", "int8-tensorrt"))
    of = {"fp32": "any", "int8": "processor", "int8-tensorrt": "tensorrt"}
    variants = {
        name: variant.model_copy(update={"engines": of[name]}) for name, variant in bundle.manifest.variants.items()
    }
    bundle = replace(bundle, manifest=bundle.manifest.model_copy(update={"variants": variants}))
    both = ["openvino", "tensorrt"]
    assert pairs_for(bundle, both, "int8") == [("openvino", "int8"), ("tensorrt", "int8-tensorrt")]
    assert pairs_for(bundle, both, "int8-tensorrt") == [("tensorrt", "int8-tensorrt")]
    assert pairs_for(bundle, both, bundle.passed) == [
        ("openvino", "fp32"),
        ("openvino", "int8"),
        ("tensorrt", "fp32"),
        ("tensorrt", "int8-tensorrt"),
    ]
    assert choose(bundle, runtime="tensorrt", variant="int8") == Choice("tensorrt", "int8-tensorrt")
    with pytest.raises(BundleError, match="has int8-tensorrt, but not for openvino; allowed: fp32 for any"):
        pairs_for(bundle, ["openvino"], "int8-tensorrt")


class Timed(Runner):
    """A runner that takes the time of a table."""

    MS: ClassVar = {"fp32": 4, "fp16": 2, "int8": 3, "mixed": 3}

    def __init__(self, bundle: Bundle, variant: str) -> None:
        graph = bundle.manifest.stage("encoder")
        super().__init__(graph.inputs, graph.outputs)
        self._s = self.MS[variant] / 1e3
        self.is_closed = False

    def _infer(self, feed: Mapping[str, Array]) -> Arrays:
        time.sleep(self._s)
        return {"features": np.zeros((len(feed["frames"]), 6), np.float32)}

    def close(self) -> None:
        super().close()
        self.is_closed = True


def test_on_a_gpu_floating_point_is_fp16_and_elsewhere_fp32(make_bundle: MakeBundle, on_gpu: None) -> None:
    asked: list[tuple[str, str]] = []
    opened: list[Timed] = []

    def open_timed(bundle: Bundle, graph: str, *, runtime: str, variant: str, threads: int | None) -> Runner:
        asked.append((runtime, variant))
        if runtime == "onnxruntime-cuda":
            raise EngineMissing("none")
        opened.append(Timed(bundle, variant))
        return opened[-1]

    bundle = make_bundle(variants=("fp32", "fp16", "int8"))
    assert choose(bundle, opened=open_timed).variant == "fp16"
    assert asked == [
        *itertools.product(["onnxruntime", "openvino"], ["fp32", "int8"]),
        *itertools.product(["tensorrt", "onnxruntime-cuda"], ["fp16", "int8"]),
    ]
    assert len(opened) == 6 and all(runner.is_closed for runner in opened)
    asked.clear()
    assert choose(make_bundle("one", variants=("fp16",)), runtime="openvino") == Choice("openvino", "fp16")
    assert choose(bundle, runtime="tensorrt", variant="fp32") == Choice("tensorrt", "fp32")
    assert asked == []


def test_one_candidate_is_not_measured(make_bundle: MakeBundle, cache: Path) -> None:
    assert choose(make_bundle(variants=("fp32",)), runtime="onnxruntime") == Choice("onnxruntime", "fp32")
    assert kept(cache) == []


@pytest.mark.parametrize("variants", [("fp32",), ("fp32", "int8")])
def test_unknown_runtimes_and_variants(make_bundle: MakeBundle, variants: tuple[str, ...]) -> None:
    bundle = make_bundle(variants=variants)
    with pytest.raises(SettingsError, match=r"runtime 'tensorflow'.*; allowed: onnxruntime, openvino"):
        choose(bundle, runtime="tensorflow")
    with pytest.raises(BundleError, match=f"has no variant 'mixed'; allowed: {', '.join(variants)}"):
        choose(bundle, variant="mixed")
    with pytest.raises(SettingsError, match="cannot run a bundle"):
        open_runner(bundle, "encoder", runtime="torch", variant="fp32")
    with pytest.raises(BundleError, match="has no variant 'mixed'"):
        open_runner(bundle, "encoder", runtime="onnxruntime", variant="mixed")


def test_nothing_installed_names_the_extra(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidrisk.runtimes.registry.is_installed", lambda name: False)
    with pytest.raises(MissingExtra, match=r"pip install 'vidrisk\[cpu\]'"):
        choose(make_bundle())


def test_a_variant_that_an_engine_refuses_is_passed_over(
    make_bundle: MakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = make_bundle()
    bundle.path("encoder", "int8").write_bytes(b"garbage")
    assert choose(bundle, runtime="onnxruntime").variant == "fp32"
    assert "onnxruntime with int8 does not run here" in caplog.text
    bundle.path("encoder", "fp32").write_bytes(b"garbage")
    with pytest.raises(RuntimeFailure, match=r"no runtime can run a\.bundle here; fix: vidrisk doctor"):
        choose(bundle, threads=1)


@pytest.mark.parametrize("runtime", file_runtimes())
def test_both_graphs_of_a_bundle_run(make_bundle: MakeBundle, runtime: str) -> None:
    bundle = make_bundle()
    frames = np.zeros((4, *bundle.contract.pixel.frame_shape), np.uint8)
    with open_runner(bundle, "encoder", runtime=runtime, variant="int8", threads=1) as encoder:
        features = encoder.infer({"frames": frames})["features"]
    with open_runner(bundle, "head", runtime=runtime, variant="int8", threads=1) as head:
        assert head.infer({"features": features[None]})["action_logits"].shape == (1, 3)


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("VIDRISK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/vidrisk")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/y")
    assert cache_folder() == Path("/home/y/.cache/vidrisk")
