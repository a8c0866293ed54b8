"""Reads and writes TFRecord files of ``tf.train.Example``, without TensorFlow.

A file is a sequence of records: the length as 8 bytes, its masked CRC-32C, the data, their masked CRC-32C, all
little-endian. The data are a protobuf message, of which this module supports the parts that an example needs:

    message Example { Features features = 1; }             message Features { map<string, Feature> feature = 1; }
    message Feature { oneof { BytesList = 1; FloatList = 2; Int64List = 3; } }, lists with ``repeated … value = 1``
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from vidrisk.data.formats.tfrecord.crc32c import masked_crc32c
from vidrisk.runtimes.contract.errors import DataError

MAX_RECORD_BYTES = 256 * 2**20
MAX_FEATURES = 10_000
MAX_VALUES = 100_000
HEADER = struct.Struct("<QI")
CRC = struct.Struct("<I")
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5

Value = bytes | float | int
Features = dict[str, memoryview]  # features before decoding, by name


def is_framed(head: bytes) -> bool:
    """Return whether a file begins with a length and the CRC of that length."""
    return len(head) >= HEADER.size and masked_crc32c(head[:8]) == HEADER.unpack(head[: HEADER.size])[1]


def examples_of(path: Path) -> Iterator[tuple[str, Features]]:
    """Yield the place, for errors, and the features of every example of a file; one record is in memory at a time.

    Raises:
        DataError: a file that cannot be read or is cut off, a wrong CRC, a record of more than 256 MB, or one that is
            not an example.
    """
    try:
        with path.open("rb") as file:
            for number, record in enumerate(_records_of(file, path), start=1):
                where = f"{path.name}, record {number}"
                try:
                    yield where, _features_of(memoryview(record))
                except _Damaged as error:
                    raise DataError(
                        f"{where} is not a tf.train.Example: {error}", allowed="features by name"
                    ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _records_of(file: BinaryIO, path: Path) -> Iterator[bytes]:
    left = path.stat().st_size
    number = 0
    while left:
        number += 1
        where = f"{path.name}, record {number}"
        head = file.read(HEADER.size)
        if number == 1 and head[:2] == b"\x1f\x8b":
            raise DataError(
                f"{path.name} is compressed", allowed="TFRecord without compression", fix="unpack it with gunzip"
            )
        if len(head) < HEADER.size:
            raise DataError(
                f"{path.name} ends in the header of record {number}", fix="get the file again: it is cut off"
            )
        if not is_framed(head):
            raise DataError(
                f"{where} has a length whose checksum is wrong", allowed="TFRecord", fix="get the file again"
            )
        length, _ = HEADER.unpack(head)
        left -= HEADER.size + length + CRC.size
        if left < 0 or length > MAX_RECORD_BYTES:
            raise DataError(
                f"{where} has {length} bytes, {'but the file ends earlier' if left < 0 else 'which is too large'}",
                allowed=f"up to {MAX_RECORD_BYTES // 2**20} MB",
                fix="get the file again: it may be cut off",
            )
        data = file.read(length)
        checksum = file.read(CRC.size)
        if len(checksum) < CRC.size or masked_crc32c(data) != CRC.unpack(checksum)[0]:
            raise DataError(f"{where} has a wrong checksum", fix="get the file again: it is damaged")
        yield data


class _Damaged(Exception):
    """Bytes that are not a valid message."""


def _features_of(record: memoryview) -> Features:
    features: Features = {}
    for field, part in _fields_of(record):
        if field != 1 or not isinstance(part, memoryview):
            continue
        for inner, entry in _fields_of(part):
            if inner == 1 and isinstance(entry, memoryview):
                parts = {place: value for place, value in _fields_of(entry) if isinstance(value, memoryview)}
                try:
                    features[bytes(parts.get(1, b"")).decode()] = parts.get(2, memoryview(b""))
                except UnicodeError as error:
                    raise _Damaged("the name of a feature is not UTF-8") from error
                if len(features) > MAX_FEATURES:
                    raise _Damaged(f"more than {MAX_FEATURES} features")
    return features


def values_of(feature: memoryview, where: str) -> list[Value]:
    """Decode the values of a feature: bytes, floats or whole numbers.

    Raises:
        DataError: it is damaged, or has more than 100 000 values.
    """
    values: list[Value] = []
    try:
        for kind, content in _fields_of(feature):
            if kind not in (1, 2, 3) or not isinstance(content, memoryview):
                raise _Damaged(f"a feature of kind {kind}")
            for field, value in _fields_of(content):
                if field == 1:
                    values += _decode_values(kind, value)
                if len(values) > MAX_VALUES:
                    raise _Damaged(f"a feature of more than {MAX_VALUES} values")
    except _Damaged as error:
        raise DataError(f"{where} is damaged: {error}", fix="get the file again") from error
    return values


def _decode_values(kind: int, value: memoryview | int) -> list[Value]:
    if isinstance(value, int):
        if kind == 2:
            return [*struct.unpack("<f", struct.pack("<I", value & 0xFFFFFFFF))]
        return [value - 2**64 if value >= 2**63 else value]
    if kind == 1:
        return [bytes(value)]
    if kind == 2:
        count, rest = divmod(len(value), 4)
        if rest or count > MAX_VALUES:
            raise _Damaged("floats that are cut off" if rest else f"a feature of more than {MAX_VALUES} values")
        return list(struct.unpack(f"<{count}f", value))
    numbers: list[Value] = []
    at = 0
    while at < len(value) and len(numbers) <= MAX_VALUES:
        number, at = _varint(value, at)
        numbers.append(number - 2**64 if number >= 2**63 else number)
    return numbers


def _fields_of(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield the number and the content of every field: a view of its bytes, or a number."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        size = {_EIGHT: 8, _FOUR: 4}.get(kind)
        if kind == _BYTES:
            size, at = _varint(message, at)
        if size is None or at + size > len(message):
            raise _Damaged("a field of an unknown kind" if size is None else "a field that is cut off")
        content = message[at : at + size]
        yield key >> 3, content if kind == _BYTES else int.from_bytes(content, "little")
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise _Damaged("a number that is cut off")
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 2**64 - 1, at
    raise _Damaged("a number of more than ten bytes")


def record_from_features(features: Mapping[str, Sequence[Value]]) -> bytes:
    """Encode an example as a record with its length and CRCs.

    A feature has bytes, whole numbers or floats; an empty one has the type bytes.
    """
    entries = b"".join(
        _field(1, _field(1, name.encode()) + _field(2, _list(values))) for name, values in features.items()
    )
    data = _field(1, entries)
    length = len(data).to_bytes(8, "little")
    return b"".join((length, CRC.pack(masked_crc32c(length)), data, CRC.pack(masked_crc32c(data))))


def _list(values: Sequence[Value]) -> bytes:
    if all(isinstance(value, bytes) for value in values):
        return _field(1, b"".join(_field(1, value) for value in values if isinstance(value, bytes)))
    if all(isinstance(value, int) for value in values):
        return _field(3, _field(1, b"".join(_varint_bytes(value) for value in values if isinstance(value, int))))
    return _field(2, _field(1, struct.pack(f"<{len(values)}f", *values)))


def _field(number: int, content: bytes) -> bytes:
    return _varint_bytes(number << 3 | _BYTES) + _varint_bytes(len(content)) + content


def _varint_bytes(value: int) -> bytes:
    value &= 2**64 - 1
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
