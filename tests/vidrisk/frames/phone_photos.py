"""Photos in the formats of phones, drones and microscopes.

pillow-heif writes the HEIF files. TIFF files and the formats that are built on TIFF are assembled
byte by byte.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import Image

KINDS = {"B": 1, "H": 3, "I": 4, "i": 9, "f": 11}
STRIPS, STRIP_BYTES, SUB_DIRECTORIES, JPEG_AT, JPEG_BYTES = 273, 279, 330, 513, 514
BLOB = 7
SAMPLE_FORMATS = {"u": 1, "i": 2, "f": 3}
EXIF_ORIENTATION = 0x0112

Page = dict[int, Any]
# Tag → number, (format of struct, numbers), or bytes (a blob). STRIPS and JPEG_AT take the content, SUB_DIRECTORIES
# pages.


def smooth(width: int, height: int, seed: int = 1) -> Image.Image:
    """Return a picture whose colours change slowly, so that it survives compression."""
    noise = np.random.default_rng(seed).integers(20, 236, (6, 8, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def corners(width: int = 96, height: int = 64) -> Image.Image:
    """Return a picture of red, green, blue and white quarters, so that no two orientations look the same."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    half = height // 2, width // 2
    pixels[: half[0], : half[1]], pixels[: half[0], half[1] :], pixels[half[0] :, : half[1]] = (
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
    )
    return Image.fromarray(pixels)


def stored_as(image: Image.Image, orientation: int) -> Image.Image:
    """Return the pixels that a camera stores with ``orientation`` so that a viewer shows ``image``."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    return image.transpose(undo[orientation]) if orientation in undo else image


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return exif.tobytes()


def jpeg(image: Image.Image, **options: Any) -> bytes:
    return encoded(image, "JPEG", **{"quality": 95, "subsampling": 0, **options})


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def heic(*images: Image.Image, primary: int = 0, orientation: int = 1, **options: Any) -> bytes:
    """Return a HEIF photo.

    The orientation is stated as irot and imir, and also in EXIF, as phones do. ``tile_size`` makes a
    grid of tiles.
    """
    file = io.BytesIO()
    parts = [pillow_heif.from_pillow(image) for image in images]
    for part in parts:
        part[0].info["exif"] = exif_of(orientation)
    parts[0].save(
        file,
        append_images=[part[0] for part in parts[1:]],
        primary_index=primary,
        **{"quality": 90, "chroma": 444, **options},
    )
    return file.getvalue()


def deep_heic(values: npt.NDArray[np.uint16]) -> bytes:
    """Return a HEIF photo with 10 bits per sample, encoded from 16-bit values."""
    file = io.BytesIO()
    height, width, _ = values.shape
    pillow_heif.from_bytes("RGB;16", (width, height), values.tobytes()).save(file, quality=-1, chroma=444)
    return file.getvalue()


def make_tiff(*pages: Page, order: str = "<", magic: int = 42, behind_header: bytes = b"") -> bytes:
    """Return a TIFF with these pages, in which each page points to the next."""
    made = bytearray(struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", magic, 0) + behind_header)
    following = 0
    for page in reversed(pages):
        following = _append_page(made, page, following, order)
    struct.pack_into(order + "I", made, 4, following)
    return bytes(made)


def _append(made: bytearray, content: bytes) -> int:
    made += bytes(len(made) % 2)
    made += content
    return len(made) - len(content)


def _append_page(made: bytearray, page: Page, following: int, order: str) -> int:
    page = dict(page)
    for at, size in ((STRIPS, STRIP_BYTES), (JPEG_AT, JPEG_BYTES)):
        if isinstance(page.get(at), bytes):
            page[at] = [page[at]]
        if isinstance(page.get(at), list):
            page[at], page[size] = (
                ("I", [_append(made, part) for part in page[at]]),
                ("I", [len(part) for part in page[at]]),
            )
    if SUB_DIRECTORIES in page:
        page[SUB_DIRECTORIES] = ("I", [_append_page(made, below, 0, order) for below in page[SUB_DIRECTORIES]])
    entries = b""
    for tag, value in sorted(page.items()):
        if isinstance(value, bytes):
            entries += struct.pack(order + "HHII", tag, BLOB, len(value), _append(made, value))
            continue
        kind, numbers = value if isinstance(value, tuple) else ("I", [value])
        content = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        where = content.ljust(4, b"\0") if len(content) <= 4 else struct.pack(order + "I", _append(made, content))
        entries += struct.pack(order + "HHI", tag, KINDS[kind], len(numbers)) + where
    return _append(made, struct.pack(order + "H", len(page)) + entries + struct.pack(order + "I", following))


def page_of(
    values: npt.NDArray[Any], photometric: int = 1, *, order: str = "<", planar: bool = False, **tags: Any
) -> Page:
    """Return a page with the samples of an array (height, width[, samples]).

    Further tags are given as ``t281=("H", [4095])``.
    """
    height, width, samples = values.shape if values.ndim == 3 else (*values.shape, 1)
    stored = values.astype(values.dtype.newbyteorder(order))
    strips = [stored[..., sample].tobytes() for sample in range(samples)] if planar else stored.tobytes()
    page: Page = {
        256: width,
        257: height,
        258: ("H", [values.dtype.itemsize * 8] * samples),
        259: ("H", [1]),
        262: ("H", [photometric]),
        277: ("H", [samples]),
        278: height,
        284: ("H", [2 if planar else 1]),
        339: ("H", [SAMPLE_FORMATS[values.dtype.kind]] * samples),
        STRIPS: strips,
    }
    return page | {int(name[1:]): value for name, value in tags.items()}


def raw_data(width: int, height: int) -> Page:
    """Return a page of colour filter values, as every raw photo has."""
    return page_of(np.full((height, width), 900, np.uint16), 32803) | {254: 0}


def dng(preview: bytes | None, *, orientation: int = 1, raw: tuple[int, int] = (320, 240)) -> bytes:
    """Return a DNG as drones write it.

    The first directory holds a tiny RGB picture. Its sub-directories hold the raw values and the JPEG preview.
    """
    first = page_of(np.full((12, 16, 3), (255, 0, 255), np.uint8), 2)
    first |= {254: 1, 274: ("H", [orientation]), 50706: ("B", [1, 4, 0, 0])}
    below = [raw_data(*raw)]
    if preview is not None:
        below.append(
            {
                254: 1,
                256: 1,
                257: 1,
                258: ("H", [8, 8, 8]),
                259: ("H", [7]),
                262: ("H", [6]),
                277: ("H", [3]),
                STRIPS: preview,
            }
        )
    return make_tiff(first | {SUB_DIRECTORIES: below})


def nef(preview: bytes, small: bytes, *, orientation: int = 1) -> bytes:
    """Return a raw photo as Nikon and Sony write it.

    Both JPEGs are stored by offset and length: ``small`` in the first directory, ``preview`` in a sub-directory.
    """
    first = page_of(np.full((12, 16, 3), (255, 0, 255), np.uint8), 2) | {
        254: 1,
        274: ("H", [orientation]),
        JPEG_AT: small,
    }
    return make_tiff(first | {SUB_DIRECTORIES: [{254: 1, JPEG_AT: preview}, raw_data(320, 240)]}, order=">")


def cr2(preview: bytes, small: bytes, *, orientation: int = 1) -> bytes:
    """Return a raw photo as Canon writes it.

    The JPEG is the strip of the first directory, and a magic number follows the header.
    """
    first = {256: 1, 257: 1, 259: ("H", [6]), 274: ("H", [orientation]), STRIPS: preview}
    return make_tiff(first, {JPEG_AT: small}, behind_header=b"CR\2\0" + bytes(4))


def raf(preview: bytes) -> bytes:
    """Return a raw photo as Fujifilm writes it, with a header that states the position of the JPEG."""
    return (
        b"FUJIFILMCCD-RAW 0201".ljust(84, b"\0")
        + struct.pack(">II", 148, len(preview))
        + bytes(148 - 92)
        + preview
        + bytes(64)
    )
