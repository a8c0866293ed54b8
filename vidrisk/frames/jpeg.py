"""Scans of a JPEG, counted before it is decoded.

Each scan is one pass over the whole picture. Cameras write one and progressive files about ten, but nothing in the format
keeps a small file from asking for a hundred thousand, which take hours.
"""

from __future__ import annotations

import re
from pathlib import Path

MAX_SCANS = 100
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
# In a scan's data 0xFF is followed by 0, or by the number of a restart.
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]", re.DOTALL)


def has_too_many_scans(path: Path) -> bool:
    """Whether the picture at the start of a JPEG file has more than MAX_SCANS."""
    data = path.read_bytes()
    # thumbnails and what cameras append hold scans too, so a high count only calls for a closer look
    return data.count(START_OF_SCAN) > MAX_SCANS and _scans_in_jpeg(data) > MAX_SCANS


def _scans_in_jpeg(data: bytes) -> int:
    """Scans up to the end of the first picture, counted no further than needed."""
    scans, place = 0, len(START_OF_SCAN)
    while scans <= MAX_SCANS:
        marker = MARKER.search(data, place)
        if marker is None or marker[0] == END_OF_IMAGE:
            break
        scans += marker[0] == START_OF_SCAN
        place = marker.end() + int.from_bytes(data[marker.end():marker.end() + 2], "big")  # behind the segment
    return scans
