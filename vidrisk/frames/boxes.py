"""Frame counts stated in an MP4's tables, read before FFmpeg allocates memory for them.

The file's size bounds most tables, but not FFmpeg's allocation for two of them: ``stsz`` if all frames have one size
(ISO/IEC 14496-12, 8.7.3), and ``trun`` (8.8.8). There one wrong number of four bytes requests gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

FIRST_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide")
CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")
# A day of one-second fragments has fewer.
MAX_BOXES = 1_000_000
# A table is nested in moov, trak, mdia, minf, stbl.
MAX_DEPTH = 5


def read_stated_frames(path: Path) -> int:
    """Return the largest frame count that one such table of an MP4 states; 0 for other containers.

    Audio is ignored: PCM has a frame for every sample, and FFmpeg combines those.
    """
    most, is_sound = 0, False
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for name, content in islice(_boxes(file, 0, size), MAX_BOXES):
            second, third = int.from_bytes(content[4:8], "big"), int.from_bytes(content[8:], "big")
            if name in (b"trak", b"traf"):
                is_sound = False
            elif name == b"hdlr":  # QuickTime has a second one per track, the data handler
                is_sound = is_sound or content[8:] == b"soun"
            elif name == b"stsz" and second and not is_sound:  # version, size of every frame, frames
                most = max(most, third)
            elif name == b"trun":  # version, frames
                most = max(most, second)
    return most


def _boxes(file: BinaryIO, start: int, end: int, depth: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """Yield (name, first 12 bytes of the content) of the boxes in a part of a file, recursively."""
    while end - start >= 8:
        file.seek(start)
        head = file.read(28)
        size, name, content = int.from_bytes(head[:4], "big"), head[4:8], 8
        if start == 0 and name not in FIRST_BOXES:
            return
        if size == 1:
            size, content = int.from_bytes(head[8:16], "big"), 16
        elif size == 0:  # extends to the end
            size = end - start
        if size < content:
            return
        yield name, head[content : content + 12]
        if name in CONTAINERS and depth < MAX_DEPTH:
            yield from _boxes(file, start + content, min(end, start + size), depth + 1)
        start += size
