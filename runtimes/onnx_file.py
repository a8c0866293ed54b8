"""Which other files an ONNX file reads, found out without onnx and protobuf: a device has neither.

An ONNX file is one protobuf message (https://protobuf.dev/programming-guides/encoding): fields of a number and a wire type, which
either hold a value or nest further messages. Weights that lie in another file are tensors with entries ``location``, ``offset``
and ``length`` (onnx.proto: ``TensorProto.external_data``).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

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
_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)


def external_files(path: Path) -> set[str]:
    """Names of the files that an ONNX file takes weights from, as it writes them; none of a file that no protobuf reader takes."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            return set()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return {location.decode("utf-8", "replace") for location in _locations(data)}
            except (IndexError, ValueError):  # cut off, or no protobuf: no engine will read it either
                return set()


def _locations(data: mmap.mmap) -> Iterator[bytes]:
    waiting = [("model", 0, len(data))]
    while waiting:
        message, start, end = waiting.pop()
        entry: dict[int, bytes] = {}
        for number, begin, stop in _fields(data, start, end):
            if message == "entry":
                entry[number] = data[begin:stop]
            elif number in _NESTED[message]:
                waiting.append((_NESTED[message][number], begin, stop))
        if entry.get(_KEY) == b"location":
            yield entry.get(_VALUE, b"")


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, begin, stop) of the length-delimited fields of a message."""
    at, groups = start, 0
    while at < end:
        tag, at = _varint(data, at)
        number, wire = (tag & 0xFFFFFFFF) >> 3, tag & 7
        if wire == _VARINT:
            _, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        elif wire == _BYTES:
            length, at = _varint(data, at)
            if not groups:
                yield number, at, at + length
            at += length
        elif wire in (_GROUP, _END_GROUP):  # long out of use, but readers skip what they do not know
            groups += 1 if wire == _GROUP else -1
        else:
            raise ValueError(f"wire type {wire}")
    if at != end or groups:
        raise ValueError("a field ends outside its message")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A number in base 128, lowest digits first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
