"""Tests of the search for external files of an ONNX file: all that onnx would read, and none in a damaged file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from vidrisk.runtimes.contract.onnx_file import NotOnnxError, external_files


def outside(location: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(8, np.float32), "weights")
    set_external_data(tensor, location, offset=4096, length=32)
    tensor.ClearField("raw_data")
    return tensor


def graph_with(*nodes: onnx.NodeProto, **parts: list[object]) -> onnx.GraphProto:
    return onnx.GraphProto(name="graph", node=nodes, **parts)


def model_of(graph: onnx.GraphProto, **parts: list[object]) -> bytes:
    opset = helper.make_opsetid("", 20)
    return onnx.ModelProto(
        ir_version=10, producer_name="a", opset_import=[opset], graph=graph, **parts
    ).SerializeToString()


def constant(tensor: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=tensor)


HIDING_PLACES: dict[str, Callable[[TensorProto], bytes]] = {
    "weights": lambda t: model_of(graph_with(initializer=[t])),
    "sparse weights": lambda t: model_of(graph_with(sparse_initializer=[onnx.SparseTensorProto(values=t)])),
    "indices": lambda t: model_of(graph_with(sparse_initializer=[onnx.SparseTensorProto(indices=t)])),
    "constant": lambda t: model_of(graph_with(constant(t))),
    "branch": lambda t: model_of(graph_with(helper.make_node("If", ["x"], ["y"], then_branch=graph_with(constant(t))))),
    "branches": lambda t: model_of(
        graph_with(onnx.NodeProto(attribute=[onnx.AttributeProto(name="a", graphs=[graph_with(initializer=[t])])]))
    ),
    "tensors": lambda t: model_of(graph_with(onnx.NodeProto(attribute=[onnx.AttributeProto(name="a", tensors=[t])]))),
    "function": lambda t: model_of(graph_with(), functions=[onnx.FunctionProto(name="f", node=[constant(t)])]),
    "default": lambda t: model_of(
        graph_with(), functions=[onnx.FunctionProto(name="f", attribute_proto=[onnx.AttributeProto(name="a", t=t)])]
    ),
    "training": lambda t: model_of(
        graph_with(), training_info=[onnx.TrainingInfoProto(initialization=graph_with(initializer=[t]))]
    ),
}


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_every_place_for_a_tensor_is_searched(tmp_path: Path, place: str) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(HIDING_PLACES[place](outside("../../secret")))
    assert external_files(path) == {"../../secret"}


def test_weights_in_the_file_are_none(tmp_path: Path) -> None:
    inside = numpy_helper.from_array(np.arange(9, dtype=np.float32), "location")
    path = tmp_path / "a.onnx"
    path.write_bytes(model_of(graph_with(constant(inside), initializer=[inside])))
    assert external_files(path) == set()


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(min_size=1, max_size=200).filter(lambda text: "\0" not in text), max_size=5))
def test_names_come_as_they_are_written(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(model_of(graph_with(initializer=[outside(name) for name in names])))
    assert external_files(path) == set(names)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=64))
def test_no_bytes_break_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with suppress(NotOnnxError):
        external_files(path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_that_onnx_still_reads_hides_nothing(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes are changed at random: every external location that onnx still reads is found."""
    content = bytearray(model_of(graph_with(constant(outside("a")), initializer=[outside("b"), outside("c")])))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    try:
        model = onnx.load_from_string(bytes(content))
    except Exception:
        return  # no engine reads it
    try:
        found = external_files(path)
    except NotOnnxError:
        return  # nor do we
    tensors = [*model.graph.initializer, *(a.t for node in model.graph.node for a in node.attribute)]
    seen = [entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"]
    assert {name if isinstance(name, str) else name.decode("utf-8", "replace") for name in seen} <= found


IR = b"""<?xml version="1.0"?><net name="a" version="11"><layers></layers><edges></edges></net>"""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (IR, "a group ends that has not begun"),
        (b"\n" + IR, "field 1 does not have the type of a model's"),
        (b" \r\n" + IR, "field 4 does not have"),
        (b"\t\t\t\t\t\t\t\t\t" + IR, "field 1 does not have"),
        (b"\xef\xbb\xbf" + IR, "not protobuf"),
        (IR.decode().encode("utf-16"), "not protobuf"),
        (b"PK\x03\x04 an archive of torch", "not protobuf|does not have|cut off|ends"),
        (onnx.ModelProto(ir_version=10, producer_name="a").SerializeToString(), "holds no graph"),
        (onnx.ModelProto(ir_version=10, graph=graph_with()).SerializeToString()[:-1], "ends outside|cut off"),
    ],
)
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(NotOnnxError, match=said):
        external_files(tmp_path / "a.onnx")
