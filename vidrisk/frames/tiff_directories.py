"""Image file directories of TIFF and of raw formats based on it (DNG, NEF, ARW, CR2, …), without decoding.

Source: TIFF 6.0, section 2, and Technical Note 1 (SubIFDs).
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import BinaryIO

# The number after the byte order: TIFF's own, Panasonic's (RW2), and two of Olympus (ORF).
MAGICS = (42, 85, 0x4F52, 0x5352)
BYTE_ORDERS = {b"II": "<", b"MM": ">"}
MAX_DIRECTORIES = 64
MAX_ENTRIES = 1024
MAX_VALUES = 16  # per entry; longer entries are skipped
FORMATS = {1: "B", 3: "H", 4: "I", 13: "I"}
BLOB = 7


class Tag(IntEnum):
    JPEG_FROM_RAW = 0x2E
    SUBFILE_TYPE = 254
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES_PER_PIXEL = 277
    STRIP_BYTES = 279
    SUB_DIRECTORIES = 330
    SAMPLE_FORMAT = 339
    JPEG_OFFSET = 513
    JPEG_BYTES = 514
    DNG_VERSION = 50706


Directory = dict[int, tuple[int, ...]]


def read_directories(file: BinaryIO) -> list[Directory]:
    """Read every directory of a file, each before its subdirectories and the next one.

    A directory maps tags to values, or to (offset, bytes) for a blob. The result is empty if the file is not a TIFF.
    Directories that are damaged or lie past the end are skipped.
    """
    head = file.read(8)
    order = BYTE_ORDERS.get(head[:2])
    if order is None or len(head) < 8 or struct.unpack(order + "H", head[2:4])[0] not in MAGICS:
        return []
    found: list[Directory] = []
    pending, seen = [struct.unpack(order + "I", head[4:])[0]], set()
    while pending and len(found) < MAX_DIRECTORIES:
        offset = pending.pop(0)
        if offset in seen or offset == 0:
            continue
        seen.add(offset)
        try:
            directory, following = _read_directory(file, order, offset)
        except struct.error:
            continue
        found.append(directory)
        pending = [*directory.get(Tag.SUB_DIRECTORIES, ()), *pending, following]
    return found


def _read_directory(file: BinaryIO, order: str, offset: int) -> tuple[Directory, int]:
    file.seek(offset)
    count = min(struct.unpack(order + "H", file.read(2))[0], MAX_ENTRIES)
    entries = file.read(12 * count)
    if len(entries) < 12 * count:
        raise struct.error("the file ends in a directory")
    behind = file.read(4)
    directory: Directory = {}
    for place in range(0, 12 * count, 12):
        tag, kind, number, value = struct.unpack(order + "HHII", entries[place : place + 12])
        if kind == BLOB:
            directory[tag] = (value, number)
        elif kind in FORMATS and 0 < number <= MAX_VALUES:
            values = struct.Struct(f"{order}{number}{FORMATS[kind]}")
            content = entries[place + 8 : place + 12]
            if values.size > 4:
                file.seek(value)
                content = file.read(values.size)
            if len(content) >= values.size:
                directory[tag] = values.unpack_from(content)
    return directory, struct.unpack(order + "I", behind)[0] if len(behind) == 4 else 0
