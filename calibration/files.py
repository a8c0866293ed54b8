"""ONNX graphs as files. Protobuf ends at 2 GiB: the weights of a larger graph lie in ``<file>.data`` beside it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from onnx import external_data_helper, helper

from vidrisk.runtimes.bundle import sha256_of

DATA_SUFFIX = ".data"
MAX_INLINE_BYTES = 2**31 - 2**26  # of weights; the rest is for nodes, names and shapes
SMALL_BYTES = 1024  # weights of so few stay in the graph: shapes are inferred from them


def data_path(path: Path) -> Path:
    """Where the weights of a large graph lie."""
    return path.with_name(path.name + DATA_SUFFIX)


def graph_files(path: Path) -> list[Path]:
    """All files of a graph: its own, and its weights' where they lie beside it."""
    return [file for file in (path, data_path(path)) if file.is_file()]


def is_large(model: onnx.ModelProto) -> bool:
    """Whether a graph outgrows one file."""
    return sum(_size_bytes(tensor) for tensor in model.graph.initializer) > MAX_INLINE_BYTES


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph; it stays as it is in memory. What was at ``path`` before is gone, weights included."""
    for old in graph_files(path):
        old.unlink()
    if not is_large(model):
        onnx.save_model(model, str(path))
        return
    for tensor in model.graph.initializer:
        if tensor.HasField("raw_data") and _size_bytes(tensor) > SMALL_BYTES:
            external_data_helper.set_external_data(tensor, data_path(path).name)
    onnx.save_model(model, str(path))  # moves the weights out of the graph in memory, too
    external_data_helper.load_external_data_for_model(model, str(path.parent))


@contextmanager
def graph_source(model: onnx.ModelProto) -> Iterator[bytes | str]:
    """What onnx's checker and ONNX Runtime take a graph as: its bytes, or the path of a file for as long as it takes."""
    if not is_large(model):
        yield model.SerializeToString(deterministic=True)
        return
    with tempfile.TemporaryDirectory(prefix="vidrisk-graph-") as folder:
        path = Path(folder) / "graph.onnx"
        save_graph(model, path)
        yield str(path)


def check_graph(model: onnx.ModelProto) -> None:
    """``onnx.checker`` for graphs of any size."""
    with graph_source(model) as source:
        onnx.checker.check_model(source)


def fingerprint(model: onnx.ModelProto) -> bytes:
    """Bytes that are equal exactly when graphs are, weights included."""
    with graph_source(model) as source:
        if isinstance(source, bytes):
            return source
        return b"".join(bytes.fromhex(sha256_of(file)) for file in graph_files(Path(source)))


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy, made tensor by tensor: protobuf copies no more than 2 GiB at once."""
    copy = onnx.ModelProto()
    _copy_fields(model, copy, but="graph")
    _copy_fields(model.graph, copy.graph, but="initializer")
    for tensor in model.graph.initializer:
        copy.graph.initializer.add().CopyFrom(tensor)
    return copy


def _copy_fields(source: Any, target: Any, *, but: str) -> None:
    for field, value in source.ListFields():
        if field.name == but:
            continue
        if hasattr(value, "extend"):
            getattr(target, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its large weights as inputs: all that types and shapes are inferred from."""
    graph = model.graph
    light = onnx.GraphProto(name=graph.name, node=graph.node, input=graph.input, output=graph.output, value_info=graph.value_info)
    for tensor in graph.initializer:
        if _size_bytes(tensor) <= SMALL_BYTES:
            light.initializer.append(tensor)
        else:
            light.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=light)


def _size_bytes(tensor: onnx.TensorProto) -> int:
    return math.prod(map(int, tensor.dims)) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
