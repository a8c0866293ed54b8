"""Weights of ONNX graphs, wherever they lie: in their tensor, or in a file that the tensor refers to by path, offset and length."""

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
    """Whether a weight lies in a file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def nested_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Tensors inside of nodes, and inside of the graphs that are inside of nodes."""
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        for attribute in waiting.pop().attribute:
            yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graph.initializer
                waiting += graph.node


def array_of(tensor: onnx.TensorProto) -> npt.NDArray[Any]:
    """Values of a weight; those that lie in a file are mapped, not read."""
    if not is_external(tensor):
        values: npt.NDArray[Any] = numpy_helper.to_array(tensor)
        return values
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return bytes_of(tensor).view(dtype).reshape(tuple(tensor.dims))


def bytes_of(tensor: onnx.TensorProto) -> npt.NDArray[np.uint8]:
    """Bytes of a weight; a view of them, where they can be had so."""
    if is_external(tensor):
        path, offset, length = location_of(tensor)
        if not length:
            return np.zeros(0, np.uint8)
        return np.asarray(np.memmap(path, np.uint8, "r", offset, (length,)))
    raw = tensor.raw_data if tensor.HasField("raw_data") else numpy_helper.to_array(tensor).tobytes()
    return np.frombuffer(raw, np.uint8)


def size_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes that the values take in memory."""
    return math.prod(map(int, tensor.dims)) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def location_of(tensor: onnx.TensorProto) -> tuple[str, int, int]:
    """File, offset and length of a weight that lies in one."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries["location"], int(entries.get("offset", 0)), int(entries.get("length", size_bytes(tensor)))


def refer(tensor: onnx.TensorProto, location: Path | str, offset: int, length: int) -> None:
    """Let a weight lie in a file; what its tensor holds is not touched."""
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    tensor.data_location = onnx.TensorProto.EXTERNAL


def shared_file(values: npt.NDArray[np.uint8], folder: Path) -> Path:
    """The file in a folder that holds these bytes; it is written when it is not there, whole or not at all."""
    path = folder / f"{hashlib.sha256(values.data).hexdigest()[:40]}.bin"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file:
            file.write(values.data)
        Path(file.name).rename(path)
    return path


def linked_file(source: Path, folder: Path) -> Path:
    """A file as a folder has it: itself, a hard link, or a copy where another disk holds it. A name stands for one file."""
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
