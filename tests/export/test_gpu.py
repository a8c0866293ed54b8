"""Tests of engines on a real GPU: they compute what torch computes for any number of frames.

With and without CUDA graphs. VIDRISK_REQUIRE_GPU=1 python -m pytest -m gpu
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from backbones import FRAME_FAMILIES

from vidrisk.export.export import export_bundle
from vidrisk.export.trained import ExportOptions, Trained
from vidrisk.inference.model import open_classifier
from vidrisk.runtimes import Bundle, open_runner
from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.registry import file_runtimes, has_provider
from vidrisk.runtimes.tensorrt.api import Kind, find_installed_kinds
from vidrisk.runtimes.tensorrt.build.engines import BuildOptions, build_engines, ensure_engines
from vidrisk.runtimes.tensorrt.cache import Batches
from vidrisk.runtimes.tensorrt.cuda import open_cuda
from vidrisk.runtimes.tensorrt.device import current_device
from vidrisk.runtimes.tensorrt.runner import TensorRtRunner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("real_gpu", "own_engines"),
    pytest.mark.skipif(
        not find_installed_kinds() and os.environ.get("VIDRISK_REQUIRE_GPU") != "1", reason="no TensorRT is installed"
    ),
]

KINDS = find_installed_kinds() or ("tensorrt",)  # without one the tests say so
SIDE_PX = 64
LEAST_COSINE = 0.999
LEAST_COSINE_INT8 = 0.99  # of the same integers in ONNX Runtime, which sums and rounds in another order

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Frames:
    """Calibration frames in memory."""

    frames: npt.NDArray[np.uint8]
    digest: str = "frames"

    @property
    def count(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        return iter(self.frames)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu-cache")


@pytest.fixture
def own_engines(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use one cache for the whole file, because building an engine takes seconds."""
    monkeypatch.setenv("VIDRISK_CACHE", str(cache))


@pytest.fixture(scope="module")
def exported(
    adapted_encoder: Callable[[str], Any],
    make_trained: Callable[..., Any],
    clips: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[Trained, Bundle]]:
    """Return a function from a family to the trained model and its bundle with fp32, fp16 and a quantized variant."""
    folder = tmp_path_factory.mktemp("gpu-bundles")

    @functools.cache
    def make(family: str) -> tuple[Trained, Bundle]:
        encoder = adapted_encoder(family)
        trained, validation = make_trained(encoder, SIDE_PX)
        options = ExportOptions(int8=True, fp16=True, target="gpu", max_drop=100, allow_drop=True, search_s=20)
        calibration = Frames(clips(32, 1, SIDE_PX, seed=7)[:, 0])
        return trained, export_bundle(trained, folder / family, validation, calibration, options)[0]

    return make


@pytest.fixture
def vit(exported: Callable[[str], tuple[Trained, Bundle]]) -> Bundle:
    return exported("vit")[1]


@pytest.fixture
def frames(clips: Callable[..., Any]) -> npt.NDArray[np.uint8]:
    """Return more frames than an engine takes at once."""
    return clips(150, 1, SIDE_PX, seed=3)[:, 0]


def least_cosine(a: Array, b: Array) -> float:
    """Return the least cosine similarity between rows of the same number."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float((np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def opened(bundle: Bundle, kind: Kind, *, cuda_graphs: bool = True) -> TensorRtRunner:
    """Return the encoder in FP16, opened."""
    ensure_engines(bundle, kind, ["fp16"])
    tensors = bundle.manifest.stage("encoder")
    return TensorRtRunner(
        bundle.path("encoder", "fp16"), tensors.inputs, tensors.outputs, kind=kind, cuda_graphs=cuda_graphs
    )


def processor_features(bundle: Bundle, variant: Any, frames: Array) -> Array:
    with open_runner(bundle, "encoder", runtime="onnxruntime", variant=variant) as encoder:
        return np.array(encoder.infer({"frames": frames})["features"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FRAME_FAMILIES)
def test_features_are_those_of_torch(
    exported: Callable[[str], tuple[Trained, Bundle]], frames: Array, family: str, kind: Kind
) -> None:
    trained, bundle = exported(family)
    with torch.inference_mode():
        expected = trained.sources["encoder"].eval().float().cpu()(torch.from_numpy(frames)).numpy()
    assert {"fp32", "fp16"} < set(bundle.manifest.variants)
    for variant in bundle.manifest.variants:
        with open_classifier(bundle.root, runtime=kind, variant=variant) as classifier:
            found = classifier.features(frames)
        assert found.shape == expected.shape and np.isfinite(found).all()
        if variant in ("fp32", "fp16"):
            assert least_cosine(found, expected) >= LEAST_COSINE, variant
        else:
            assert least_cosine(found, processor_features(bundle, variant, frames)) >= LEAST_COSINE_INT8, variant


@pytest.mark.parametrize("kind", KINDS)
def test_cuda_graphs_change_nothing(vit: Bundle, frames: Array, kind: Kind) -> None:
    with opened(vit, kind) as recorded, opened(vit, kind, cuda_graphs=False) as plain:
        for count in (1, 8, 64, 65, 150, 8, 1, 0):
            expected = plain.infer({"frames": frames[:count]})["features"]
            for _ in range(4):
                np.testing.assert_allclose(
                    recorded.infer({"frames": frames[:count]})["features"], expected, rtol=1e-3, atol=1e-3
                )


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_frames_than_an_engine_takes(
    vit: Bundle, frames: Array, kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path))
    build_engines(vit, BuildOptions(Batches(4, 8, 16)), kind=kind, variants=["fp16"])
    expected = processor_features(vit, "fp32", frames)
    with opened(vit, kind) as runner:
        for count in (1, 3, 4, 17, 150):
            assert least_cosine(runner.infer({"frames": frames[:count]})["features"], expected[:count]) >= LEAST_COSINE


@pytest.mark.parametrize("kind", KINDS)
def test_without_memory_it_goes_on_in_smaller_steps_or_says_so(
    vit: Bundle, frames: Array, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    expected, cuda = processor_features(vit, "fp32", frames), open_cuda()
    with opened(vit, kind) as runner:
        cuda.activate()
        held = []
        size = current_device().free_bytes
        while size > 1 << 20:  # all that there is, but for the last megabyte
            try:
                held.append(cuda.device_memory(size))
            except RuntimeFailure:
                size //= 2
        try:
            features = runner.infer({"frames": frames})["features"]
        except RuntimeFailure as error:
            assert "no memory for a batch of 1" in str(error)
        else:
            assert least_cosine(features, expected) >= LEAST_COSINE
        finally:
            for address in held:
                cuda.free_device(address)
        assert "the GPU has no memory for" in caplog.text
        assert least_cosine(runner.infer({"frames": frames})["features"], expected) >= LEAST_COSINE


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_start_builds_nothing(vit: Bundle, frames: Array, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_classifier(vit.root, runtime=kind, variant="fp16") as classifier:
        expected = classifier.features(frames)

    def built(*arguments: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr("vidrisk.runtimes.tensorrt.build.engines.ensure_engines", built)
    with open_classifier(vit.root, runtime=kind, variant="fp16") as classifier:
        np.testing.assert_allclose(classifier.features(frames), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_clips_in_one_go(vit: Bundle, frames: Array, kind: Kind) -> None:
    clips = frames.reshape(50, 3, *frames.shape[1:])
    with open_classifier(vit.root, runtime=kind, variant="fp16") as classifier:
        for _ in range(3):
            for target, expected in classifier.probabilities(classifier.features(frames).reshape(50, 3, -1)).items():
                np.testing.assert_allclose(classifier.classify(clips)[target], expected, atol=0.01)


def test_auto_takes_what_is_fastest(vit: Bundle, frames: Array) -> None:
    with open_classifier(vit.root) as classifier:
        assert classifier.features(frames).shape == (150, classifier.width)


def test_onnx_runtime_on_the_gpu(vit: Bundle, frames: Array) -> None:
    if not has_provider("onnxruntime-cuda"):
        pytest.skip("onnxruntime-gpu is not installed")
    assert "onnxruntime-cuda" in file_runtimes()
    for variant in ("fp32", "fp16"):
        with open_runner(vit, "encoder", runtime="onnxruntime-cuda", variant=variant) as encoder:
            features = encoder.infer({"frames": frames})["features"]
        assert least_cosine(features, processor_features(vit, "fp32", frames)) >= LEAST_COSINE
