"""Tests of the way from a graph's file to its outputs, through the engine cache and a fake GPU; see ``fake_cuda``."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import fake_cuda
import numpy as np
import pytest
from fake_cuda import DEVICE, VERSION, FakeCuda, FakeTensorRt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from three_stages import PROMPT, logits_of, write_three_stages

from vidrisk.runtimes import Stage, TensorSpec, open_runner
from vidrisk.runtimes.chain import HostChain, chain_runners
from vidrisk.runtimes.contract.errors import EngineMissing, RuntimeFailure, SpecError
from vidrisk.runtimes.tensorrt import belt, context, runner
from vidrisk.runtimes.tensorrt.api import Kind, open_api
from vidrisk.runtimes.tensorrt.cache import Batches, EngineKey, engine_store, graph_sha256
from vidrisk.runtimes.tensorrt.runner import ChainedRunner, TensorRtRunner

LOGGER = "vidrisk.runtimes.tensorrt.belt"
FRAME_BYTES = 8 * 8 * 3
WINDOW = TensorSpec("frames", "uint8", ("batch", 4, 8, 8, 3))


@dataclass
class Gpu:
    """A fake GPU with TensorRT, and the graphs that have engines on it."""

    graphs: dict[str, Stage]
    files: dict[str, Path]
    cuda: FakeCuda
    trt: FakeTensorRt

    def build(self, *names: str) -> None:
        """Put engines of these graphs into the cache: the files themselves."""
        for name in names:
            key = EngineKey(
                self.trt.kind,
                VERSION,
                DEVICE.name,
                (DEVICE.compute_capability,),
                DEVICE.driver_major,
                graph_sha256(self.files[name]),
                self.trt.batches,
            )
            engine_store().add(key, self.files[name].read_bytes(), "{}")

    def open(self, name: str = "encoder", kind: Kind = "tensorrt", *, cuda_graphs: bool = True) -> TensorRtRunner:
        graph = self.graphs[name]
        return TensorRtRunner(self.files[name], graph.inputs, graph.outputs, kind=kind, cuda_graphs=cuda_graphs)


@pytest.fixture
def make_gpu(
    graphs: dict[str, Stage], onnx_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Gpu]]:
    """Yield a function from settings of ``FakeTensorRt`` to a GPU with engines of encoder and head."""
    with pytest.MonkeyPatch.context() as patch:

        def make(**settings: object) -> Gpu:
            patch.setenv("VIDRISK_CACHE", str(tmp_path_factory.mktemp("cache")))
            cuda = FakeCuda()
            trt = FakeTensorRt(cuda, **settings)
            patch.setattr(context, "open_api", lambda kind: trt.api)
            patch.setattr(context, "current_device", lambda: DEVICE)
            patch.setattr(runner, "open_cuda", lambda: cuda)
            gpu = Gpu(graphs, dict(onnx_files), cuda, trt)
            gpu.build("encoder", "head")
            return gpu

        yield make


@pytest.fixture
def gpu(make_gpu: Callable[..., Gpu]) -> Gpu:
    return make_gpu()


def frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def expected(encoder_weights: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda batch: (batch.reshape(-1, FRAME_BYTES).astype(np.float64) / 255) @ encoder_weights.astype(np.float64)


Expected = Callable[[np.ndarray], np.ndarray]
Gpus = Callable[..., Gpu]


def batches() -> st.SearchStrategy[Batches]:
    return st.lists(st.integers(1, 12), min_size=3, max_size=3).map(lambda sizes: Batches(*sorted(sizes)))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    sizes_of_engine=batches(),
    uncut_rows=st.integers(1, 40),
    room_rows=st.integers(1, 60),
    cuda_graphs=st.booleans(),
    refuses_recording=st.booleans(),
)
def test_whatever_comes_is_computed(
    make_gpu: Gpus,
    expected: Expected,
    sizes: list[int],
    sizes_of_engine: Batches,
    uncut_rows: int,
    room_rows: int,
    cuda_graphs: bool,
    refuses_recording: bool,
) -> None:
    """Any batches, engines and chunks work, with little memory, with or without CUDA graphs, and nothing is leaked."""
    gpu = make_gpu(batches=sizes_of_engine, refuses_recording=refuses_recording)
    row_bytes = gpu.trt.row_bytes + 2 * (FRAME_BYTES + 6 * 4)
    gpu.cuda.memory_bytes = row_bytes * max(room_rows, sizes_of_engine.min)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(belt, "UNCUT_BYTES", uncut_rows * FRAME_BYTES)
        opened = gpu.open(cuda_graphs=cuda_graphs)
        kept = [(batch, opened.infer({"frames": batch})["features"]) for batch in map(frames, sizes, range(30))]
        opened.close()
    for batch, features in kept:
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, expected(batch), atol=1e-4)
    assert all(sizes_of_engine.min <= rows <= sizes_of_engine.max for rows in gpu.trt.runs)
    assert gpu.cuda.held == {}


def test_a_batch_is_cut_into_equal_chunks_and_padded(gpu: Gpu, make_gpu: Gpus, expected: Expected) -> None:
    with gpu.open(cuda_graphs=False) as opened:
        for count in (8, 9, 20, 1):
            np.testing.assert_allclose(
                opened.infer({"frames": frames(count)})["features"], expected(frames(count)), atol=1e-4
            )
    assert gpu.trt.runs == [8, 5, 4, 7, 7, 6, 1]
    large = make_gpu(batches=Batches(4, 4, 8))
    with large.open(cuda_graphs=False) as opened:
        assert opened.infer({"frames": frames(9)})["features"].shape == (9, 6)
        assert opened.infer({"frames": frames(1)})["features"].shape == (1, 6)
    assert large.trt.runs == [5, 4, 4]


def test_one_chunk_is_copied_while_the_other_runs(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(belt, "UNCUT_BYTES", 5 * FRAME_BYTES)
    with gpu.open(cuda_graphs=False) as opened:
        for count, chunks in ((5, [5]), (8, [4, 4]), (24, [8, 8, 8])):
            gpu.trt.runs.clear()
            gpu.cuda.log.clear()
            opened.infer({"frames": frames(count)})
            assert gpu.trt.runs == chunks
            before = gpu.cuda.log[: gpu.cuda.log.index("synchronise event")]
            assert before.count("upload") == before.count("execute") == min(2, len(chunks))


def test_what_comes_again_is_recorded_and_launched(gpu: Gpu, expected: Expected) -> None:
    with gpu.open() as opened:
        for seed in range(6):
            np.testing.assert_allclose(
                opened.infer({"frames": frames(3, seed)})["features"], expected(frames(3, seed)), atol=1e-4
            )
        assert gpu.trt.runs == [3, 3, 3]  # run, run again, recorded
        assert gpu.cuda.log.count("launch") == 4
        opened.infer({"frames": frames(2)})
        assert gpu.cuda.log.count("launch") == 4
        opened.infer({"frames": frames(8)})  # larger buffers: what was recorded is about others
        np.testing.assert_allclose(opened.infer({"frames": frames(3)})["features"], expected(frames(3)), atol=1e-4)
        assert gpu.cuda.log.count("launch") == 4


def test_recordings_are_few(make_gpu: Gpus, expected: Expected) -> None:
    gpu = make_gpu(batches=Batches(1, 8, 32))
    with gpu.open() as opened:
        opened.infer({"frames": frames(32)})
        for count in range(1, 21):
            for _ in range(3):
                np.testing.assert_allclose(
                    opened.infer({"frames": frames(count)})["features"], expected(frames(count)), atol=1e-4
                )
        assert list(gpu.cuda.held.values()).count("recording") == belt.RECORDINGS


@pytest.mark.parametrize("setting", ["refuses_recording", "recording_fails"])
def test_engines_that_cannot_be_recorded_run_all_the_same(
    gpu: Gpu, expected: Expected, caplog: pytest.LogCaptureFixture, setting: str
) -> None:
    setattr(gpu.trt if setting == "refuses_recording" else gpu.cuda, setting, True)
    with gpu.open() as opened:
        for count in (3, 3, 3, 5, 5, 5):
            np.testing.assert_allclose(
                opened.infer({"frames": frames(count)})["features"], expected(frames(count)), atol=1e-4
            )
    assert "launch" not in gpu.cuda.log and gpu.cuda.held == {}
    (said,) = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert said.startswith("engines run without CUDA graphs") and "captur" in said


def test_without_room_chunks_are_halved_and_it_is_said(
    gpu: Gpu, expected: Expected, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.cuda.memory_bytes = 3 * (gpu.trt.row_bytes + 2 * (FRAME_BYTES + 6 * 4))
    with gpu.open(cuda_graphs=False) as opened:
        for count in (8, 8):
            np.testing.assert_allclose(
                opened.infer({"frames": frames(count)})["features"], expected(frames(count)), atol=1e-4
            )
    assert gpu.trt.runs == [2] * 8
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "the GPU has no memory for 8 rows at once; from now on at most 4",
        "the GPU has no memory for 4 rows at once; from now on at most 2",
    ]


def test_an_engine_without_room_halves_too(gpu: Gpu, expected: Expected, caplog: pytest.LogCaptureFixture) -> None:
    with gpu.open() as opened:
        gpu.trt.fails = "[defaultAllocator.cpp] Error Code 1: Cuda Runtime (out of memory)"
        with pytest.raises(
            RuntimeFailure, match=r"no memory for a batch of 1: .*\(out of memory\); fix: stop other programs"
        ):
            opened.infer({"frames": frames(8)})
        assert gpu.trt.runs == [8, 4, 2, 1] and "at most 1" in caplog.text
        gpu.trt.fails = ""
        np.testing.assert_allclose(opened.infer({"frames": frames(8)})["features"], expected(frames(8)), atol=1e-4)
    assert gpu.cuda.held == {}


def test_not_even_the_smallest_batch_fits(make_gpu: Gpus) -> None:
    gpu = make_gpu(batches=Batches(3, 4, 8))
    gpu.cuda.memory_bytes = 100
    with gpu.open() as opened, pytest.raises(RuntimeFailure, match="no memory for a batch of 3"):
        opened.infer({"frames": frames(1)})
    assert gpu.cuda.held == {}


def test_engines_fail_in_their_own_words_and_go_on(gpu: Gpu, expected: Expected) -> None:
    with gpu.open() as opened:
        opened.infer({"frames": frames(4)})
        gpu.trt.fails = "IExecutionContext::enqueueV3: Error Code 7:\nInternal Error (/blocks.3/attn/MatMul: no kernel)"
        for _ in range(2):
            with pytest.raises(RuntimeFailure) as caught:
                opened.infer({"frames": frames(24)})
            assert "failed in encoder.onnx" in str(caught.value) and "/blocks.3/attn/MatMul" in str(caught.value)
            assert len(str(caught.value).splitlines()) == 1
        gpu.trt.fails = ""
        np.testing.assert_allclose(opened.infer({"frames": frames(24)})["features"], expected(frames(24)), atol=1e-4)


def test_what_broke_off_is_no_part_of_the_next_batch(
    gpu: Gpu, expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(event: int) -> None:
        raise KeyboardInterrupt

    with gpu.open() as opened:
        with monkeypatch.context() as patch:
            patch.setattr(gpu.cuda, "synchronise_event", interrupt)
            with pytest.raises(KeyboardInterrupt):
                opened.infer({"frames": frames(24)})
        np.testing.assert_allclose(
            opened.infer({"frames": frames(20, 1)})["features"], expected(frames(20, 1)), atol=1e-4
        )


def test_arrays_of_any_layout_and_outputs_that_stay(gpu: Gpu, expected: Expected) -> None:
    strided, fixed = frames(6)[::-2, ::-1], frames(3, seed=1)
    fixed.flags.writeable = False
    repeated = np.broadcast_to(frames(1), (3, 8, 8, 3))
    opened = gpu.open()
    assert not opened.reuses_outputs and opened.runtime == "tensorrt"
    kept = [(batch, opened.infer({"frames": batch})["features"]) for batch in (strided, fixed, repeated)]
    opened.close()
    opened.close()
    for batch, features in kept:
        np.testing.assert_allclose(features, expected(np.ascontiguousarray(batch)), atol=1e-4)
    with pytest.raises(RuntimeFailure, match="tensorrt runner is closed"):
        opened.infer({"frames": fixed})
    with pytest.raises(RuntimeFailure, match="tensorrt runner is closed"):
        ChainedRunner([opened, gpu.open("head")], [4, 1], WINDOW)
    with pytest.raises(SpecError, match="frames is float32"):
        gpu.open().infer({"frames": fixed.astype(np.float32)})


def test_without_an_engine_it_says_why_and_what_to_do(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    said = r"no tensorrt engine of encoder.onnx: {}; fix: vidrisk build BUNDLE --engine tensorrt$"
    other = replace(DEVICE, name="Orin Nano")
    monkeypatch.setattr(context, "current_device", lambda: other)
    with pytest.raises(EngineMissing, match=said.format(r"built for Fake GPU \(8.7\), here is Orin Nano \(8.7\)")):
        gpu.open()
    for path in engine_store().folder.iterdir():
        path.unlink()
    with pytest.raises(EngineMissing, match=said.format("none has been built yet")):
        gpu.open()


def test_an_engine_of_other_tensors_is_refused(gpu: Gpu) -> None:
    graph = gpu.graphs["encoder"]
    half = (TensorSpec("features", "float16", ("batch", 6)),)
    with pytest.raises(
        RuntimeFailure, match=r"has the tensors features: float32\[batch, 6\], .*; allowed: features: float16"
    ):
        TensorRtRunner(gpu.files["encoder"], graph.inputs, half)
    free = (TensorSpec("frames", "uint8", ("batch", "height", 8, 3)),)
    with pytest.raises(RuntimeFailure, match=r"allowed: .*frames: uint8\[batch, height, 8, 3\]"):
        TensorRtRunner(gpu.files["encoder"], free, graph.outputs)


def test_encoder_and_head_in_one_go(gpu: Gpu) -> None:
    clips = np.stack([frames(4, seed) for seed in range(5)])
    with gpu.open() as encoder, gpu.open("head") as head:
        features = np.concatenate([encoder.infer({"frames": clip})["features"][None] for clip in clips])
        reference = head.infer({"features": features})["action_logits"]
        with chain_runners(tuple(gpu.graphs.values()), (encoder, head), 4) as both:
            assert repr(both) == "ChainedRunner(frames['batch', 4, 8, 8, 3] → action_logits['batch', 3])"
            gpu.trt.runs.clear()
            gpu.cuda.log.clear()
            for _ in range(3):
                np.testing.assert_allclose(both.infer({"frames": clips})["action_logits"], reference, atol=1e-5)
            assert gpu.trt.runs[:6] == [8, 2, 8, 2, 4, 1]  # an encoder for 8 frames takes two clips at once
            first = gpu.cuda.log[: gpu.cuda.log.index("activate", 1)]
            assert [first.count(what) for what in ("upload", "execute", "download")] == [3, 6, 3]
            assert gpu.cuda.log.count("launch") == 3
            assert both.infer({"frames": clips[:0]})["action_logits"].shape == (0, 3)
    assert gpu.cuda.held == {}


def test_a_chain_respects_the_smallest_batch_of_each_engine(make_gpu: Gpus) -> None:
    gpu = make_gpu(batches=Batches(6, 6, 16))
    with gpu.open() as encoder:
        gpu.trt.batches = Batches(1, 2, 3)
        gpu.build("head")
        with gpu.open("head") as head, chain_runners(tuple(gpu.graphs.values()), (encoder, head), 4) as both:
            for count in (1, 5):
                assert both.infer({"frames": np.zeros((count, 4, 8, 8, 3), np.uint8)})["action_logits"].shape == (
                    count,
                    3,
                )
    assert gpu.trt.runs == [8, 2, 12, 3, 8, 2]  # two clips are the fewest


def test_what_does_not_fit_is_not_chained(gpu: Gpu, make_gpu: Gpus) -> None:
    small = make_gpu(batches=Batches(1, 2, 3))
    with small.open() as encoder, small.open("head") as head:
        with pytest.raises(RuntimeFailure, match=r"encoder\.onnx and head\.onnx have no batch size in common"):
            ChainedRunner([encoder, head], [4, 1], WINDOW)
        clips = np.stack([frames(4, seed) for seed in range(2)])
        with chain_runners(tuple(small.graphs.values()), (encoder, head), 4) as both:
            assert type(both) is HostChain
            found = both.infer({"frames": clips})["action_logits"]
        features = encoder.infer({"frames": clips.reshape(8, 8, 8, 3)})["features"].reshape(2, 4, -1)
        np.testing.assert_allclose(found, head.infer({"features": features})["action_logits"], atol=1e-5)
    assert small.cuda.held == {}


def test_three_stages_and_a_constant_in_one_go(make_gpu: Gpus, tmp_path: Path) -> None:
    """Frames, groups and windows: one stage takes tensors of two others, and nothing between them is downloaded."""
    gpu, bundle = make_gpu(), write_three_stages(tmp_path / "three.bundle", golden=False)
    for stage in bundle.stages:
        gpu.files[f"of {stage.name}"] = bundle.path(stage.name, "fp32")
        gpu.build(f"of {stage.name}")
    clips = np.random.default_rng(0).integers(0, 256, (7, 4, 16, 16, 3), np.uint8)
    expected = np.stack([logits_of(clip) for clip in clips])
    with ExitStack() as stack:
        runners = [
            stack.enter_context(open_runner(bundle, stage.name, runtime="tensorrt", variant="fp32"))
            for stage in bundle.stages
        ]
        pairs = runners[1].infer({"tokens": np.zeros((3, 2, 2, 3), np.float32)})["pair"]
        np.testing.assert_allclose(pairs, np.maximum(PROMPT, 0)[None].repeat(3, axis=0))
        both = stack.enter_context(chain_runners(bundle.stages, runners, 4))
        assert type(both) is ChainedRunner
        gpu.trt.runs.clear()
        gpu.cuda.log.clear()
        for count in (5, 7, 7, 1, 3):
            np.testing.assert_allclose(
                both.infer({"frames": clips[:count]})["action_logits"], expected[:count], atol=2e-5
            )
        assert gpu.trt.runs[:3] == [8, 4, 2]
        first = gpu.cuda.log[: gpu.cuda.log.index("activate", 1)]
        assert [first.count(what) for what in ("upload", "download")] == [4, 3]  # three chunks, and the prompt once
    assert gpu.cuda.held == {}


def test_tensorrt_for_rtx_records_by_itself_and_keeps_its_kernels(make_gpu: Gpus, expected: Expected) -> None:
    gpu = make_gpu(kind="tensorrt-rtx")
    with gpu.open(kind="tensorrt-rtx") as opened:
        for count in (3, 3, 3, 5):
            np.testing.assert_allclose(
                opened.infer({"frames": frames(count)})["features"], expected(frames(count)), atol=1e-4
            )
    assert opened.runtime == "tensorrt-rtx" and "launch" not in gpu.cuda.log
    assert gpu.trt.contexts[0].config.cuda_graph_strategy == "yes"
    (kernels,) = engine_store().folder.glob("*.kernels")
    assert kernels.read_bytes() == bytes([3, 5])
    written = kernels.stat().st_mtime_ns
    with gpu.open(kind="tensorrt-rtx", cuda_graphs=False) as opened:
        assert gpu.trt.contexts[1].config.cuda_graph_strategy == "no"
        assert gpu.trt.contexts[1].config.kernels.compiled == {3, 5}
        opened.infer({"frames": frames(3)})
    assert kernels.stat().st_mtime_ns == written
    kernels.unlink()
    kernels.mkdir()  # what cannot be kept is not
    with gpu.open(kind="tensorrt-rtx") as opened:
        opened.infer({"frames": frames(3)})
    assert not list(engine_store().folder.glob("*.tmp"))


def test_a_portable_engine_may_bring_code(gpu: Gpu) -> None:
    key = EngineKey(
        "tensorrt", VERSION, "", ("8.7",), "", graph_sha256(gpu.files["encoder"]), gpu.trt.batches, portable=True
    )
    gpu.open()
    assert not hasattr(gpu.trt.runtimes[0], "engine_host_code_allowed")
    engine_store().add(key, gpu.files["encoder"].read_bytes(), "{}")
    gpu.open()
    assert gpu.trt.runtimes[1].engine_host_code_allowed


def test_the_fake_has_nothing_that_tensorrt_has_not() -> None:
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx")
    trt = open_api("tensorrt-rtx").trt

    names = {
        "FakeEngine": "ICudaEngine",
        "FakeContext": "IExecutionContext",
        "FakeConfig": "IRuntimeConfig",
        "FakeKernels": "IRuntimeCache",
    }
    for fake, real in names.items():
        public = [name for name in vars(getattr(fake_cuda, fake)) if not name.startswith("_")]
        assert public and [name for name in public if not hasattr(getattr(trt, real), name)] == []
    enums = ("TensorIOMode", "ExecutionContextAllocationStrategy", "CudaGraphStrategy")
    for enum, name in itertools.chain.from_iterable(((e, n) for n in vars(getattr(FakeTensorRt, e))) for e in enums):
        assert hasattr(getattr(trt, enum), name)
