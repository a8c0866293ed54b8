"""Segments of a JPEG, parsed without decoding: its frame, its scans, and whether it is complete.

Each scan is one pass over the whole picture. Cameras write one and progressive files about ten, but the format allows a
small file to request a hundred thousand, which take hours. Source: ITU-T T.81, annex B.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_SCANS = 100
SOI, EOI, SOS = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
# In a scan's data 0xFF is followed by 0 or by a restart number.
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]", re.DOTALL)
STANDALONE = frozenset((SOI, EOI))
# Start of frame: baseline, extended, progressive; with Huffman or arithmetic coding. Pillow decodes no others (lossless
# ones).
SEQUENTIAL, PROGRESSIVE = (b"\xff\xc0", b"\xff\xc1", b"\xff\xc9"), (b"\xff\xc2", b"\xff\xca")
COEFFICIENTS = 64
# A broken transfer or card leaves bytes of one value in place of the end. No picture holds this many in a row.
FILLS = b"\0", b"\xff"
MIN_FILL_BYTES = 16


@dataclass
class JpegScans:
    """Properties of the first picture of a JPEG file, as far as it is present.

    Attributes:
        width, height: pixels; 0 without a frame that can be decoded.
        is_progressive: whether scans refine one another.
        scans: number of scans that begin.
        has_end: the end marker is present.
        size: bytes of its usable segments and scans; ends before a segment that is cut.
        starts_picture: the last scan holds the first values of the first component, so that pixels it lacks are missing
            altogether and not only coarser.
    """

    width: int = 0
    height: int = 0
    is_progressive: bool = False
    scans: int = 0
    has_end: bool = False
    size: int = 0
    starts_picture: bool = False
    _bits_missing: dict[int, list[int]] = field(
        default_factory=dict
    )  # bits missing per component and coefficient; -1: not begun

    @property
    def has_all_scans(self) -> bool:
        """Whether every component has begun and, in a progressive picture, every coefficient has its last bit."""
        if not self.is_progressive:
            return all(bits[0] == 0 for bits in self._bits_missing.values())
        return all(not any(bits) for bits in self._bits_missing.values())

    def begin_frame(self, marker: bytes, content: bytes) -> None:
        if content[0] != 8:  # bits per sample; Pillow decodes no other
            return
        self.height, self.width = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
        self.is_progressive = marker in PROGRESSIVE
        self._bits_missing = {component: [-1] * COEFFICIENTS for component in content[6 : 6 + 3 * content[5] : 3]}

    def begin_scan(self, content: bytes) -> None:
        self.scans += 1
        number = content[0]
        components = content[1 : 1 + 2 * number : 2]
        first, last, bits = content[1 + 2 * number : 4 + 2 * number]
        if not self.is_progressive:
            first, last, bits = 0, COEFFICIENTS - 1, 0
        self.starts_picture = first == 0 and next(iter(self._bits_missing), -1) in components and not bits >> 4
        for component in components:
            known = self._bits_missing.get(component)
            if known:
                known[first : last + 1] = [bits & 15] * len(known[first : last + 1])


def has_too_many_scans(data: bytes) -> bool:
    """Return whether the picture at the start of a JPEG file has more than MAX_SCANS."""
    # thumbnails and data appended by cameras hold scans too, so a high count only requires a closer look
    return data.count(SOS) > MAX_SCANS and scans_in_jpeg(data).scans > MAX_SCANS


def scans_in_jpeg(data: bytes) -> JpegScans:
    """Read the segments up to the end of the first picture, and at most MAX_SCANS + 1 scans."""
    found = JpegScans()
    for marker, content, end in _segments(data):
        if content is None:  # cut inside the segment
            return found
        found.size = end
        try:
            if marker in SEQUENTIAL + PROGRESSIVE:
                found.begin_frame(marker, content)
            elif marker == SOS:
                found.begin_scan(content)
        except (IndexError, ValueError):  # the segment is too short for what it states
            return found
        if marker == EOI:
            found.has_end = True
            return found
        if found.scans > MAX_SCANS:
            return found
    kept = next((kept for fill in FILLS if len(data) - len(kept := data.rstrip(fill)) >= MIN_FILL_BYTES), data)
    found.size = max(found.size, len(kept.removesuffix(b"\xff")))  # half a marker, or half of 0xFF 0
    return found


def _segments(data: bytes) -> Iterator[tuple[bytes, bytes | None, int]]:
    """Yield (marker, content, end) of each segment; the content is None if the file ends inside."""
    place = 0
    while (marker := MARKER.search(data, place)) is not None:
        place = marker.end()
        if marker[0] in STANDALONE:
            yield marker[0], b"", place
            continue
        length = int.from_bytes(data[place : place + 2], "big")
        if place + max(2, length) > len(data):
            yield marker[0], None, place
            return
        yield marker[0], data[place + 2 : place + length], place + length
        place += max(2, length)
