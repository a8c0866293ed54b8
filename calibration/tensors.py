"""Weights of ONNX graphs, stored in their tensor or in a file that it refers to by path, offset and length."""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper


def is_external(tensor: onnx.TensorProto) -> bool:
    """Return whether a weight is stored in a file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def iter_nested_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensors inside nodes, including those of nested graphs."""
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        for attribute in waiting.pop().attribute:
            yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graph.initializer
                waiting += graph.node


def array_of(tensor: onnx.TensorProto) -> npt.NDArray[Any]:
    """Return the values of a weight; if they are in a file, they are memory-mapped."""
    if not is_external(tensor):
        values: npt.NDArray[Any] = numpy_helper.to_array(tensor)
        return values
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return bytes_of(tensor).view(dtype).reshape(tuple(tensor.dims))


def bytes_of(tensor: onnx.TensorProto) -> npt.NDArray[np.uint8]:
    """Return the bytes of a weight, as a view if possible."""
    if is_external(tensor):
        path, offset, length = location_of(tensor)
        if not length:
            return np.zeros(0, np.uint8)
        return np.asarray(np.memmap(path, np.uint8, "r", offset, (length,)))
    raw = tensor.raw_data if tensor.HasField("raw_data") else numpy_helper.to_array(tensor).tobytes()
    return np.frombuffer(raw, np.uint8)


def size_bytes(tensor: onnx.TensorProto) -> int:
    """Return the size of the values in memory, in bytes."""
    return math.prod(map(int, tensor.dims)) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def location_of(tensor: onnx.TensorProto) -> tuple[str, int, int]:
    """Return file, offset and length of a weight that is stored in a file."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries["location"], int(entries.get("offset", 0)), int(entries.get("length", size_bytes(tensor)))


def refer(tensor: onnx.TensorProto, location: Path | str, offset: int, length: int) -> None:
    """Make a tensor refer to a weight in a file; its own values are not changed."""
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    tensor.data_location = onnx.TensorProto.EXTERNAL


def store_shared_file(values: npt.NDArray[np.uint8], folder: Path) -> Path:
    """Return the file in a folder that holds these bytes; a missing one is written atomically."""
    path = folder / f"{hashlib.sha256(values.data).hexdigest()[:40]}.bin"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file:
            file.write(values.data)
        Path(file.name).rename(path)
    return path


def link_file(source: Path, folder: Path) -> Path:
    """Return a file's path in a folder: the file itself, a hard link, or a copy if it is on another disk.

    A name stands for one file.
    """
    if source.parent == folder:
        return source
    info = source.stat()
    path = folder / f"{info.st_ino:x}-{info.st_mtime_ns:x}-{source.name}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            path.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, path)
    return path
