"""HEIF, which phones write as HEIC, through pi-heif or pillow-heif: Pillow's image class for it, without registering it.

libheif turns and mirrors as the file says (irot, imir), and takes the primary one of several images. EXIF's orientation
repeats that and does not count. pi-heif is pillow-heif without its encoder, so its wheels hold nothing under the GPL.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, BinaryIO

from PIL.ImageFile import ImageFile

from vidrisk.frames.content import AVIF_BRANDS, HEIF_BRANDS
from vidrisk.runtimes.contract.errors import MissingExtra, is_installed, require

MODULES = ("pi_heif", "pillow_heif")


def brands_of(head: bytes) -> frozenset[bytes]:
    """Read the brands of an ISO file from its first bytes: what it says that it is; none for other files."""
    if head[4:8] != b"ftyp":
        return frozenset()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return frozenset((head[8:12], *(head[place : place + 4] for place in range(16, end, 4))))


def is_heif(head: bytes) -> bool:
    """Whether a file that begins so is HEIF, and not AVIF, which is built on it."""
    brands = brands_of(head)
    return bool(brands & HEIF_BRANDS) and not brands & AVIF_BRANDS


def open_heif(photo: Path | BinaryIO) -> ImageFile:
    """Read the headers of a HEIF photo.

    Raises:
        MissingExtra: neither module is installed.
        RuntimeFailure: it does not load.
        SyntaxError: libheif refuses the file.
    """
    module = next(filter(is_installed, MODULES), None)
    if module is None:
        raise MissingExtra(MODULES[0], "heif")
    plugin = require(f"{module}.as_plugin", "heif")
    options: Any = importlib.import_module(f"{module}.options")
    # A decode process has one core; nothing but the picture itself is wanted.
    options.DECODE_THREADS, options.THUMBNAILS, options.DEPTH_IMAGES, options.AUX_IMAGES = 1, False, False, False
    image: ImageFile = plugin.HeifImageFile(photo)
    return image
