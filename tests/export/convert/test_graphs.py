"""Tests of real exports of every registered family and every head, on which three engines agree."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from backbones import FAMILIES, WINDOW_TRANSFORMERS
from torch import nn

from vidrisk.export.convert.graphs import MAX_OPSET, export_onnx, tensor_spec
from vidrisk.runtimes import Runner, TensorSpec
from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.openvino import OpenVinoRunner
from vidrisk.runtimes.ort import OnnxRuntimeRunner
from vidrisk.runtimes.torch import TorchRunner

HEADS = [("linear", 3), ("mlp", 3), ("segments", 11), ("attention", 3), ("segments", 1), ("attention", 1)]
Make = Callable[..., Any]


def engines(exported: Any) -> list[Runner]:
    stage = exported.stage
    return [
        TorchRunner(exported.module, stage.inputs, stage.outputs),
        OnnxRuntimeRunner(exported.path, stage.inputs, stage.outputs),
        OpenVinoRunner(exported.path, stage.inputs, stage.outputs),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_encoder_family_agrees_in_every_engine(exported_encoder: Make, clips: Make, family: str) -> None:
    exported = exported_encoder(family)
    check_file(exported)
    torch_runner, *others = engines(exported)
    for batch in (1, 2, 3, 5):  # every sample shows something else
        frames = exported.seen(clips, batch)
        features = torch_runner.infer({"frames": frames})["features"]
        assert np.ptp(features, axis=1).min() > 0.01
        for runner in others:
            np.testing.assert_allclose(
                runner.infer({"frames": frames})["features"], features, atol=1e-3, err_msg=runner.runtime
            )


@pytest.mark.parametrize(("kind", "frames"), HEADS)
def test_every_head_agrees_in_every_engine(exported_head: Make, kind: str, frames: int) -> None:
    exported = exported_head(kind, frames)
    check_file(exported)
    torch_runner, *others = engines(exported)
    for batch in (1, 2, 5):
        feed = {"features": np.random.default_rng(batch).normal(1, 3, (batch, frames, 24)).astype(np.float32)}
        expected = torch_runner.infer(feed)
        assert all(np.ptp(logits, axis=1).min() > 0.01 for logits in expected.values())
        for runner in others:
            result = runner.infer(feed)
            for name, logits in expected.items():
                np.testing.assert_allclose(result[name], logits, atol=1e-3, err_msg=runner.runtime)
                assert (result[name].argmax(1) == logits.argmax(1)).all()


def check_file(exported: Any) -> None:
    """Check a file's opset, names and axes, and that it holds no trace of the machine that wrote it."""
    model = onnx.load(str(exported.path))
    assert next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) <= MAX_OPSET == 20
    assert {o.domain for o in model.opset_import} <= {"", "ai.onnx"}
    assert model.ir_version <= 10
    assert tuple(tensor_spec(v) for v in model.graph.input) == exported.stage.inputs
    assert tuple(tensor_spec(v) for v in model.graph.output) == exported.stage.outputs
    content = exported.path.read_bytes()
    for trace in (
        "/site-packages",
        str(Path(__file__).parents[3]),
        sys.prefix,
        'File "',
        str(Path.home()) + "/",
        "lora_",
    ):
        assert trace.encode() not in content, trace


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_but_a_cast_reads_the_uint8_input(exported_encoder: Make, family: str) -> None:
    model = onnx.load(str(exported_encoder(family).path))
    assert [n.op_type for n in model.graph.node if "frames" in n.input] == [
        "Cast"
    ]  # TensorRT takes uint8 into nothing else
    assert model.graph.node[0].op_type == "Cast"
    assert family in ("efficientnet-lite0", *WINDOW_TRANSFORMERS) or any(n.op_type == "Shape" for n in model.graph.node)


def spec(name: str, *shape: int | str) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name, "float32", shape),)


def test_what_torch_cannot_export_is_one_line(tmp_path: Path) -> None:
    class DataDependent(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.sum().item() > 0 else x

    with pytest.raises(RuntimeFailure, match="torch cannot export DataDependent: ") as caught:
        export_onnx(
            DataDependent(), [torch.ones(2, 3)], spec("x", "batch", 3), spec("y", "batch", 3), tmp_path / "x.onnx"
        )
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_graph_that_breaks_its_promise_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match=r"the exported graph has .*batch, 4.*; allowed: .*batch, 5"):
        export_onnx(
            nn.Linear(3, 4), [torch.ones(2, 3)], spec("x", "batch", 3), spec("y", "batch", 5), tmp_path / "x.onnx"
        )
    assert not list(tmp_path.iterdir())


class Merger(nn.Module):
    """A module that merges four rows into one."""

    def forward(self, rows: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
        return rows.reshape(-1, 12) + shifts.sum()


class Twice(nn.Module):
    """A module that returns its rows twice."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([rows, rows])


def test_an_axis_may_be_a_multiple_of_another(tmp_path: Path) -> None:
    """An input axis may be a multiple of the output axis, which gets its name from its spec.

    torch has no name for the output axis.
    """
    inputs, outputs = (*spec("rows", "4*tokens", 3), *spec("shifts", "shifts")), spec("merged", "tokens", 12)
    export_onnx(Merger(), [torch.ones(8, 3), torch.ones(3)], inputs, outputs, tmp_path / "x.onnx")
    model = onnx.load(str(tmp_path / "x.onnx"))
    assert tuple(tensor_spec(value) for value in (*model.graph.input, *model.graph.output)) == (*inputs, *outputs)
    rows, shifts = np.arange(60, dtype=np.float32).reshape(20, 3), np.ones(2, np.float32)
    for runner in (OnnxRuntimeRunner, OpenVinoRunner):
        with runner(tmp_path / "x.onnx", inputs, outputs) as opened:
            np.testing.assert_array_equal(
                opened.infer({"rows": rows, "shifts": shifts})["merged"], rows.reshape(5, 12) + 2
            )
    with pytest.raises(RuntimeFailure, match=r"the exported graph has .*batch, 4.*; allowed: .*4\*batch, 4"):
        export_onnx(
            nn.Linear(3, 4), [torch.ones(8, 3)], spec("x", "batch", 3), spec("y", "4*batch", 4), tmp_path / "z.onnx"
        )
    with pytest.raises(RuntimeFailure, match=r"the exported graph has .*; allowed: .*batch, 3"):
        export_onnx(Twice(), [torch.ones(8, 3)], spec("x", "batch", 3), spec("y", "batch", 3), tmp_path / "z.onnx")
