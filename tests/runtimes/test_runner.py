"""Tests of runners: engines with one interface that agree in their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vidrisk.runtimes import FakeRunner, Runner, Stage, TensorSpec
from vidrisk.runtimes.contract.errors import RuntimeFailure, SpecError
from vidrisk.runtimes.openvino import OpenVinoRunner
from vidrisk.runtimes.ort import OnnxRuntimeRunner
from vidrisk.runtimes.runner import Array, Arrays
from vidrisk.runtimes.torch import TorchRunner

INPUTS = (TensorSpec("a", "float32", ("batch", 2)), TensorSpec("b", "float32", ("batch", "time")))
OUTPUTS = (TensorSpec("sum", "float32", ("batch",)),)
ENGINES = (OnnxRuntimeRunner, OpenVinoRunner)


def summed(feed: Mapping[str, Array]) -> Arrays:
    return {"sum": np.asarray(feed["a"].sum(1) + feed["b"].sum(1))}


def ones(*shape: int, dtype: str = "float32") -> Array:
    return np.ones(shape, dtype)


def test_fake_runner_runs_a_function() -> None:
    with FakeRunner(INPUTS, OUTPUTS, summed) as runner:
        result = runner.infer({"a": ones(3, 2), "b": ones(3, 5)})
    assert result["sum"].tolist() == [7, 7, 7]
    assert runner.runtime == "fake"
    assert repr(runner) == "FakeRunner(a['batch', 2], b['batch', 'time'] → sum['batch'])"


@pytest.mark.parametrize(
    ("feed", "said"),
    [
        ({"a": ones(3, 2)}, r"feed has \['a'\]; allowed: \['a', 'b'\]"),
        ({"a": ones(3, 2), "b": ones(3, 5), "c": ones(1)}, "feed has"),
        ({"a": ones(3, 2, dtype="float64"), "b": ones(3, 5)}, "a is float64; allowed: float32"),
        ({"a": ones(3, 2), "b": ones(3)}, "b has shape"),
        ({"a": ones(3, 3), "b": ones(3, 5)}, "axis 2 should be 2"),
        ({"a": ones(3, 2), "b": ones(4, 5)}, "axis 'batch' should be 3"),
    ],
)
def test_a_feed_that_does_not_fit_never_reaches_the_engine(feed: Arrays, said: str) -> None:
    def never(feed: Mapping[str, Array]) -> Arrays:
        raise AssertionError("called")

    with pytest.raises(SpecError, match=said):
        FakeRunner(INPUTS, OUTPUTS, never).infer(feed)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({}, "fake returned .*; allowed: also sum"),
        ({"sum": ones(3, dtype="float64")}, "sum is float64"),
        ({"sum": ones(3, 1)}, "sum has shape"),
        ({"sum": ones(2)}, "axis 'batch' should be 3"),
    ],
)
def test_outputs_are_checked_too(output: Arrays, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        FakeRunner(INPUTS, OUTPUTS, lambda feed: output).infer({"a": ones(3, 2), "b": ones(3, 5)})


class Encoder(nn.Module):
    """The function of the hand-made ONNX encoder, as a torch module."""

    def __init__(self, weights: np.ndarray) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.from_numpy(weights.copy()))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return (frames.float() / 255).flatten(1) @ self.weights


@pytest.fixture(params=["onnxruntime", "openvino", "torch"])
def open_encoder(
    request: pytest.FixtureRequest, graphs: dict[str, Stage], onnx_files: dict[str, Path], encoder_weights: np.ndarray
) -> Callable[[], Runner]:
    graph = graphs["encoder"]

    def make() -> Runner:
        if request.param == "torch":
            return TorchRunner(Encoder(encoder_weights), graph.inputs, graph.outputs)
        engine = {e.runtime: e for e in ENGINES}[request.param]
        return engine(onnx_files["encoder"], graph.inputs, graph.outputs, threads=1)

    return make


def frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def reference(batch: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (batch.reshape(len(batch), -1).astype(np.float64) / 255) @ weights.astype(np.float64)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_engines_compute_the_same(open_encoder: Callable[[], Runner], encoder_weights: np.ndarray, count: int) -> None:
    with open_encoder() as runner:
        features = runner.infer({"frames": frames(count)})["features"]
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, reference(frames(count), encoder_weights), atol=1e-4)


def test_engines_take_arrays_of_any_layout_and_leave_them_alone(
    open_encoder: Callable[[], Runner], encoder_weights: np.ndarray
) -> None:
    strided = frames(6)[::-2, ::-1]
    fixed = frames(3, seed=1)
    fixed.flags.writeable = False
    repeated = np.broadcast_to(frames(1), (3, 8, 8, 3))
    with open_encoder() as runner:
        for batch in (strided, fixed, repeated):
            before = batch.copy()
            features = runner.infer({"frames": batch})["features"]
            np.testing.assert_allclose(features, reference(batch, encoder_weights), atol=1e-4)
            assert (batch == before).all()


def test_outputs_outlive_the_next_call_and_the_runner(
    open_encoder: Callable[[], Runner], encoder_weights: np.ndarray
) -> None:
    runner = open_encoder()
    assert not runner.reuses_outputs
    kept = [runner.infer({"frames": frames(3, seed)})["features"] for seed in range(3)]
    runner.close()
    for seed, features in enumerate(kept):
        np.testing.assert_allclose(features, reference(frames(3, seed), encoder_weights), atol=1e-4)


def test_closed_runners_say_so(open_encoder: Callable[[], Runner]) -> None:
    with open_encoder() as runner:
        runner.infer({"frames": frames(1)})
    runner.close()
    with pytest.raises(RuntimeFailure, match=f"{runner.runtime} runner is closed"):
        runner.infer({"frames": frames(1)})


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("content", [b"", b"not an onnx file\n" * 50, None])
def test_files_that_are_no_graph_are_one_line(
    engine: type[OnnxRuntimeRunner],
    content: bytes | None,
    tmp_path: Path,
    graphs: dict[str, Stage],
    onnx_files: dict[str, Path],
) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(onnx_files["encoder"].read_bytes()[:500] if content is None else content)
    with pytest.raises(RuntimeFailure, match=r"cannot load bad\.onnx") as caught:
        engine(path, graphs["encoder"].inputs, graphs["encoder"].outputs)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_graph_with_other_tensors_than_its_specs_fails_as_ours(
    engine: type[OnnxRuntimeRunner], graphs: dict[str, Stage], onnx_files: dict[str, Path]
) -> None:
    graph = graphs["encoder"]
    renamed = (TensorSpec("embedding", "float32", ("batch", 6)),)
    with pytest.raises((RuntimeFailure, SpecError)), engine(onnx_files["encoder"], graph.inputs, renamed) as runner:
        runner.infer({"frames": frames(2)})
    other_input = (TensorSpec("pixels", "uint8", ("batch", 8, 8, 3)),)
    with (
        pytest.raises((RuntimeFailure, SpecError)),
        engine(onnx_files["encoder"], other_input, graph.outputs) as runner,
    ):
        runner.infer({"pixels": frames(2)})


def test_torch_failures_are_ours_and_modules_are_evaluated() -> None:
    class Picky(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            assert not self.training
            if x.shape[1] == 3:
                raise RuntimeError("shapes\ndo not fit")
            return x.double(), x.bfloat16()

    specs = [TensorSpec(name, "float32", ("batch", "width")) for name in ("x", "one", "two")]
    runner = TorchRunner(Picky().train(), specs[:1], specs[1:])
    result = runner.infer({"x": ones(2, 4)})
    assert list(result) == ["one", "two"]
    assert {a.dtype for a in result.values()} == {np.dtype("float32")}
    with pytest.raises(RuntimeFailure, match=r"^torch failed: shapes do not fit$"):
        runner.infer({"x": ones(2, 3)})


def test_no_rows_give_none_on_every_engine(open_encoder: Callable[[], Runner]) -> None:
    with open_encoder() as runner:
        assert runner.infer({"frames": frames(0)})["features"].shape == (0, 6)
        assert runner.infer({"frames": frames(2)})["features"].shape == (2, 6)


def test_no_moments_are_not_no_rows() -> None:
    with FakeRunner(INPUTS, OUTPUTS, summed) as runner:
        assert runner.infer({"a": ones(3, 2), "b": ones(3, 0)})["sum"].tolist() == [2, 2, 2]


class Several(nn.Module):
    def forward(self, a: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return a.argmax(dim=1), a.half(), a.bfloat16()


def test_torch_answers_in_the_types_of_its_outputs() -> None:
    outputs = (
        TensorSpec("ids", "int64", ("batch",)),
        TensorSpec("half", "float16", ("batch", 2)),
        TensorSpec("brain", "float32", ("batch", 2)),
    )
    with TorchRunner(Several(), INPUTS[:1], outputs) as runner:
        found = runner.infer({"a": ones(3, 2)})
    assert [found[spec.name].dtype.name for spec in outputs] == ["int64", "float16", "float32"]
