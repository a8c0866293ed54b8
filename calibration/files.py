"""ONNX graphs as files: weights of graphs beyond protobuf's 2 GiB limit lie in ``<file>.data`` beside them.

In memory, a weight is either stored in its tensor, or its tensor refers to a file (``load_graph`` with a folder). In
that case ``location`` is an absolute path, and the writer of the graph puts a link to that file beside it. A graph of
references can be copied and changed without its weights, and a hundred variants of it take only the disk space of what
they change.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from vidrisk.calibration.tensors import (
    bytes_of,
    is_external,
    iter_nested_tensors,
    link_file,
    location_of,
    refer,
    size_bytes,
    store_shared_file,
)
from vidrisk.runtimes.contract.errors import DataError

DATA_SUFFIX = ".data"
MAX_INLINE_BYTES = 2**31 - 2**26  # limit for weights; the rest is for nodes, names and shapes
SMALL_BYTES = 1024  # weights up to this size stay in the graph: shape inference needs them
SHARED_BYTES = 2**14  # weights above this size get their own file in a folder of shared weights
ALIGNMENT = 64  # of weights in a file, for computing with them in place
SHARED = "weights"  # folder of shared weights, beside the graph that they come from


def data_path(path: Path) -> Path:
    """Return the path of a large graph's weights."""
    return path.with_name(path.name + DATA_SUFFIX)


def graph_files(path: Path) -> list[Path]:
    """Return all files of a graph: its own, and that of its weights if they lie beside it."""
    return [file for file in (path, data_path(path)) if file.is_file()]


def is_large(model: onnx.ModelProto) -> bool:
    """Return whether a graph is too large for one file."""
    return sum(size_bytes(tensor) for tensor in model.graph.initializer) > MAX_INLINE_BYTES


def load_graph(path: Path, weights: Path | None = None) -> onnx.ModelProto:
    """Read a graph whose large weights are references to files.

    Args:
        path: the graph; weights in ``<file>.data`` stay there.
        weights: folder for the large weights of a single-file graph; None keeps them in memory.
    """
    model = onnx.load(str(path), load_external_data=False)
    refer_to(model, path.parent)
    if weights is not None:
        _share(model, weights)
    return model


def refer_to(model: onnx.ModelProto, folder: Path) -> None:
    """Make a graph refer to weight files in ``folder`` by absolute paths.

    Small weights, and tensors inside nodes, are read into the graph.

    Raises:
        DataError: a weight is in another folder, or not in its file.
    """
    weights = list(model.graph.initializer)
    for number, tensor in enumerate((*weights, *iter_nested_tensors(model))):
        if is_external(tensor):
            location, offset, length = location_of(tensor)
            file = folder.absolute() / location
            if Path(location).name != location or file.is_symlink() or not file.is_file():
                raise DataError(
                    f"a graph refers to weights in {location!r}", allowed="files beside it", fix="export it again"
                )
            if offset < 0 or length < 0 or offset + length > file.stat().st_size:
                raise DataError(f"{location} is too short for its graph", fix="copy it again, or export it again")
            refer(tensor, file, offset, length)
            if length <= SMALL_BYTES or number >= len(weights):
                _fill(tensor, tensor)


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph with all its weights, and leave it unchanged in memory.

    A previous graph at ``path`` is replaced, including its weights.
    """
    light, data = _without_data(model), data_path(path)
    staged = data.with_name(f"{data.name}.tmp")  # the graph may refer to the weights in the old file
    pairs = list(zip(light.graph.initializer, model.graph.initializer, strict=True))
    large = [(target, tensor) for target, tensor in pairs if _may_lie_beside(tensor)] if is_large(model) else []
    inline = [pair for pair in pairs if not _may_lie_beside(pair[1])] if large else pairs
    for target, tensor in inline:
        _fill(target, tensor)
    in_place = bool(large) and all(
        is_external(tensor) and location_of(tensor)[0] == str(data.absolute()) for _, tensor in large
    )
    if in_place:
        for target, tensor in large:
            refer(target, data.name, *location_of(tensor)[1:])
    elif large:
        _write_weights(large, staged, data.name)
    path.unlink(missing_ok=True)
    onnx.save_model(light, str(path))
    if not in_place:
        data.unlink(missing_ok=True)
    if staged.exists():
        staged.rename(data)


def _may_lie_beside(tensor: onnx.TensorProto) -> bool:
    return (tensor.HasField("raw_data") or is_external(tensor)) and size_bytes(tensor) > SMALL_BYTES


def _write_weights(weights: Iterable[tuple[onnx.TensorProto, onnx.TensorProto]], path: Path, name: str) -> None:
    """Write weights one after the other.

    The first tensor of each pair then refers to them as weights in a file called ``name``.
    """
    with path.open("wb") as file:
        for target, tensor in weights:
            file.write(bytes(-file.tell() % ALIGNMENT))
            values = bytes_of(tensor)
            refer(target, name, file.tell(), len(values))
            file.write(values.data)


def save_trial(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph for inspection, with large weights as files that graphs in the same folder share.

    A weight that is missing from the folder is written, or linked if it lies in another folder. A previous graph at
    ``path`` is replaced.
    """
    light = _without_data(model)
    for target, tensor in zip(light.graph.initializer, model.graph.initializer, strict=True):
        if is_external(tensor):
            source, offset, length = location_of(tensor)
            refer(target, link_file(Path(source), path.parent).name, offset, length)
        elif tensor.HasField("raw_data") and size_bytes(tensor) > SHARED_BYTES:
            values = bytes_of(tensor)
            refer(target, store_shared_file(values, path.parent).name, 0, len(values))
        else:
            target.CopyFrom(tensor)
    path.unlink(missing_ok=True)
    onnx.save_model(light, str(path))


@contextmanager
def graph_source(model: onnx.ModelProto) -> Iterator[bytes | str]:
    """Yield a graph in the form that ONNX Runtime reads: its bytes, or the path of a temporary file."""
    folders = {Path(location_of(tensor)[0]).parent for tensor in model.graph.initializer if is_external(tensor)}
    if not folders and not is_large(model):
        yield model.SerializeToString(deterministic=True)
        return
    beside = min((folder for folder in folders if os.access(folder, os.W_OK)), default=None)  # where a link is possible
    with tempfile.TemporaryDirectory(prefix="vidrisk-graph-", dir=beside) as folder:
        path = Path(folder) / "graph.onnx"
        save_trial(model, path)
        yield str(path)


def check_graph(model: onnx.ModelProto) -> None:
    """Run ``onnx.checker`` on a graph of any size; only the type and shape of a large weight are checked."""
    onnx.checker.check_model(without_weights(model))


def fingerprint(model: onnx.ModelProto) -> bytes:
    """Return bytes that are equal exactly when graphs are, including weights, wherever they are stored."""
    digest = hashlib.sha256(_without_data(model).SerializeToString(deterministic=True))
    for tensor in model.graph.initializer:
        is_raw = is_external(tensor) or tensor.HasField("raw_data")
        values = bytes_of(tensor).data if is_raw else memoryview(tensor.SerializeToString(deterministic=True))
        digest.update(values.nbytes.to_bytes(8, "little"))
        digest.update(values)
    return digest.digest()


def copy_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph tensor by tensor, since protobuf copies at most 2 GiB at once.

    Weights in files are shared.
    """
    copy = onnx.ModelProto()
    _copy_fields(model, copy, but="graph")
    _copy_fields(model.graph, copy.graph, but="initializer")
    for tensor in model.graph.initializer:
        copy.graph.initializer.add().CopyFrom(tensor)
    return copy


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its large weights as inputs, which is enough to infer types and shapes."""
    graph = model.graph
    light = onnx.GraphProto(
        name=graph.name, node=graph.node, input=graph.input, output=graph.output, value_info=graph.value_info
    )
    for tensor in graph.initializer:
        if size_bytes(tensor) <= SMALL_BYTES and not is_external(tensor):
            light.initializer.append(tensor)
        else:
            light.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions, graph=light
    )


def make_shared_tensor(name: str, values: npt.NDArray[Any], folder: Path) -> onnx.TensorProto:
    """Create a weight that refers to a file in a folder of shared weights; a small one holds its values."""
    if values.nbytes <= SHARED_BYTES:
        return numpy_helper.from_array(values, name)
    tensor = onnx.TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(values.dtype), dims=values.shape)
    data = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
    refer(tensor, store_shared_file(data, folder.absolute()), 0, len(data))
    return tensor


def _share(model: onnx.ModelProto, folder: Path) -> None:
    """Move the large weights of a graph into files in a folder."""
    for tensor in model.graph.initializer:
        if tensor.HasField("raw_data") and size_bytes(tensor) > SHARED_BYTES:
            values = bytes_of(tensor)
            refer(tensor, store_shared_file(values, folder.absolute()), 0, len(values))
            tensor.ClearField("raw_data")


def _without_data(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose weights have only names, types and shapes."""
    light = onnx.ModelProto()
    _copy_fields(model, light, but="graph")
    _copy_fields(model.graph, light.graph, but="initializer")
    for tensor in model.graph.initializer:
        light.graph.initializer.add(
            name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, doc_string=tensor.doc_string
        )
    return light


def _fill(target: onnx.TensorProto, tensor: onnx.TensorProto) -> None:
    """Store the values of ``tensor`` in ``target`` itself."""
    if is_external(tensor):
        target.raw_data = bytes_of(tensor).tobytes()
        target.data_location = onnx.TensorProto.DEFAULT
        del target.external_data[:]
    else:
        target.CopyFrom(tensor)


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
