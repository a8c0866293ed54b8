"""Reading of raw photos of cameras and drones through their largest embedded JPEG, rotated like the raw picture.

The result of developing raw data differs from program to program; the JPEG is the camera's own. Supported are formats
based on TIFF (DNG, NEF, ARW, CR2, PEF, SRW, RW2) and Fujifilm's RAF.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vidrisk.frames.jpeg import SOI, scans_in_jpeg
from vidrisk.frames.media import name_of
from vidrisk.frames.tiff_directories import BYTE_ORDERS, Directory, Tag, read_directories
from vidrisk.runtimes.contract.errors import UnreadableError

RAF_MAGIC, RAF_JPEG_AT = b"FUJIFILMCCD-RAW", 84
RAW = (32803, 34892)  # colour filter array, and linear raw
JPEG_COMPRESSIONS = (6, 7)
CANON_MAGIC, CANON_AT = b"CR\2\0", 8
OTHER_RAW_MAGICS = (b"IIU\0", b"IIRO", b"IIRS", b"MMOR")
MAX_PREVIEWS = 16


@dataclass(frozen=True, eq=False)
class Preview:
    """The JPEG in a raw photo; ``orientation`` is the raw picture's EXIF value, None if not stated."""

    jpeg: bytes
    orientation: int | None
    note: str


def preview_from_raw(path: Path, head: bytes) -> Preview | None:
    """Find the largest JPEG in a raw photo; return None if the file is not a raw photo.

    ``head`` holds the first bytes of the file.

    Raises:
        UnreadableError: a raw photo without a JPEG (skipped).
    """
    if not head.startswith((RAF_MAGIC, *BYTE_ORDERS)):
        return None
    with path.open("rb") as file:
        if head.startswith(RAF_MAGIC):
            place = [int.from_bytes(head[at : at + 4], "big") for at in (RAF_JPEG_AT, RAF_JPEG_AT + 4)]
            directories, places = [], [(place[0], place[1])]
        else:
            directories = read_directories(file)
            if not _are_raw(directories, head):
                return None
            places = [place for directory in directories for place in _jpeg_in(directory)]
        best, size = b"", (0, 0)
        for offset, length in sorted(set(places), key=lambda place: -place[1])[:MAX_PREVIEWS]:
            file.seek(offset)
            jpeg = file.read(length)
            frame = scans_in_jpeg(jpeg) if jpeg.startswith(SOI) else None
            if frame and frame.width * frame.height > size[0] * size[1]:
                best, size = jpeg, (frame.width, frame.height)
    if not best:
        raise UnreadableError(
            f"{name_of(path)} is a raw photo without a JPEG preview",
            state="skipped",
            fix="convert it to JPEG, or have the camera write both",
        )
    orientation = directories[0].get(Tag.ORIENTATION, (None,))[0] if directories else None
    return Preview(best, orientation, _note(size, directories))


def _are_raw(directories: list[Directory], head: bytes) -> bool:
    if head[CANON_AT : CANON_AT + 4] == CANON_MAGIC or head.startswith(OTHER_RAW_MAGICS):
        return bool(directories)
    return any(Tag.DNG_VERSION in directory or _photometric(directory) in RAW for directory in directories)


def _photometric(directory: Directory) -> int:
    return directory.get(Tag.PHOTOMETRIC, (-1,))[0]


def _jpeg_in(directory: Directory) -> list[tuple[int, int]]:
    """Return (offset, bytes) of possible JPEGs."""
    found = []
    if Tag.JPEG_OFFSET in directory and Tag.JPEG_BYTES in directory:
        found.append((directory[Tag.JPEG_OFFSET][0], directory[Tag.JPEG_BYTES][0]))
    strips = directory.get(Tag.STRIP_OFFSETS, ()), directory.get(Tag.STRIP_BYTES, ())
    is_jpeg = directory.get(Tag.COMPRESSION, (0,))[0] in JPEG_COMPRESSIONS and _photometric(directory) not in RAW
    if is_jpeg and len(strips[0]) == len(strips[1]) == 1:
        found.append((strips[0][0], strips[1][0]))
    if len(directory.get(Tag.JPEG_FROM_RAW, ())) == 2:
        found.append((directory[Tag.JPEG_FROM_RAW][0], directory[Tag.JPEG_FROM_RAW][1]))
    return found


def _note(size: tuple[int, int], directories: list[Directory]) -> str:
    raw = max(
        (
            (directory.get(Tag.WIDTH, (0,))[0], directory.get(Tag.HEIGHT, (0,))[0])
            for directory in directories
            if _photometric(directory) in RAW
        ),
        default=(0, 0),
    )
    whole = f"; its raw picture of {raw[0]}x{raw[1]} is not developed" if raw[0] else ""
    return f"shows the embedded JPEG preview of {size[0]}x{size[1]} pixels{whole}"
