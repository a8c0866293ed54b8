"""Inspect ONNX files without onnx and protobuf, which a device does not have: validity, external files, INT8 range.

An ONNX file is one protobuf message (https://protobuf.dev/programming-guides/encoding): fields with a number and a wire
type, which hold a value or a nested message. Tensors whose weights are in another file have entries ``location``,
``offset`` and ``length`` (onnx.proto: ``TensorProto.external_data``).

Other files are refused here rather than left to an engine: some engines read other formats under any file name, with
weights from unchecked files.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

# Message → the fields, by number, that lead to tensors, and the message in each (onnx.proto).
_NESTED: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2  # fields of an entry
_DATA_TYPE, _RAW_DATA = 2, 9  # fields of a tensor
_INT8 = 3  # TensorProto.DataType
_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)
# Fields of a model and their wire types. No text file begins with one of these.
_MODEL = {1: _VARINT, 5: _VARINT, **dict.fromkeys((2, 3, 4, 6, 7, 8, 14, 20, 25), _BYTES)}
_GRAPH = 7


class NotOnnxError(ValueError):
    """File that is not an ONNX file; the message is a clause that says why."""


def external_files(path: Path) -> set[str]:
    """Return the names of the external weight files of an ONNX file, as written in it.

    Raises:
        NotOnnxError: it is not an ONNX file.
    """
    with _open_model(path) as data:
        return {location.decode("utf-8", "replace") for location in _locations(data)}


def files_of_graph(path: Path) -> list[Path]:
    """Return the paths of an ONNX file and of its external weight files beside it.

    Raises:
        NotOnnxError: it is not an ONNX file.
    """
    return [path, *(path.with_name(name) for name in sorted(external_files(path)))]


def largest_int8(path: Path) -> int:
    """Return the largest absolute value of the INT8 constants in an ONNX file.

    The result is 0 if there are none, and 128 if one of them is not stored as raw data in this file.

    Raises:
        NotOnnxError: it is not an ONNX file.
    """
    with _open_model(path) as data:
        return max((_largest_of_tensor(data, start, end) for start, end in _messages(data, "tensor")), default=0)


@contextmanager
def _open_model(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise NotOnnxError("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                _check_model(data)
                yield data
            except IndexError as error:
                raise NotOnnxError("it is cut off") from error


def _largest_of_tensor(data: mmap.mmap, start: int, end: int) -> int:
    fields = {number: (begin, stop) for number, _, begin, stop in _fields(data, start, end)}
    if _DATA_TYPE not in fields or _varint(data, fields[_DATA_TYPE][0])[0] != _INT8:
        return 0
    if _RAW_DATA not in fields:  # in an external file, or as a list of numbers, which no exporter writes
        return 128
    values = np.frombuffer(data[slice(*fields[_RAW_DATA])], np.int8)
    return int(np.abs(values.astype(np.int16)).max(initial=0))


def _check_model(data: mmap.mmap) -> None:
    found = set()
    for number, wire, _, _ in _fields(data, 0, len(data)):
        if _MODEL.get(number, wire) != wire:
            raise NotOnnxError(f"its field {number} does not have the type of a model's")
        found.add(number)
    if _GRAPH not in found:
        raise NotOnnxError("it holds no graph")


def _locations(data: mmap.mmap) -> Iterator[bytes]:
    for start, end in _messages(data, "entry"):
        entry = {number: data[begin:stop] for number, wire, begin, stop in _fields(data, start, end) if wire == _BYTES}
        if entry.get(_KEY) == b"location":
            yield entry.get(_VALUE, b"")


def _messages(data: mmap.mmap, wanted: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of all messages of one kind at any nesting level."""
    waiting = [("model", 0, len(data))]
    while waiting:
        message, start, end = waiting.pop()
        if message == wanted:
            yield start, end
        nested = _NESTED.get(message, {})
        waiting += [
            (nested[number], begin, stop)
            for number, wire, begin, stop in _fields(data, start, end)
            if wire == _BYTES and number in nested
        ]


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (number, wire type, begin, stop) of the fields of a message, without groups and their content."""
    at, groups = start, 0
    while at < end:
        tag, at = _varint(data, at)
        number, wire = (tag & 0xFFFFFFFF) >> 3, tag & 7
        begin = at
        if wire == _VARINT:
            _, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        elif wire == _BYTES:
            length, begin = _varint(data, at)
            at = begin + length
        elif wire in (_GROUP, _END_GROUP):  # deprecated, but readers skip unknown fields
            groups += 1 if wire == _GROUP else -1
            if groups < 0:
                raise NotOnnxError("it is not protobuf: a group ends that has not begun")
            continue
        else:
            raise NotOnnxError(f"it is not protobuf: wire type {wire}")
        if not groups:
            yield number, wire, begin, at
    if at != end or groups:
        raise NotOnnxError("it is not protobuf: a field ends outside its message")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """Decode a base-128 number, least significant group first; return it and the offset after it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise NotOnnxError("it is not protobuf: a number of more than 64 bits")
