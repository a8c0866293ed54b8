"""HEIF (HEIC from phones) through pi-heif or pillow-heif: Pillow's image class for it, without registering it.

libheif rotates and mirrors as the file states (irot, imir), and decodes the primary one of several images. EXIF's
orientation repeats that and is ignored. pi-heif is pillow-heif without its encoder, so its wheels contain nothing under
the GPL.
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
    """Return the brands that an ISO file states in its first bytes; empty for other files."""
    if head[4:8] != b"ftyp":
        return frozenset()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return frozenset((head[8:12], *(head[place : place + 4] for place in range(16, end, 4))))


def is_heif(head: bytes) -> bool:
    """Return whether a file that begins with ``head`` is HEIF, and not AVIF, which is based on it."""
    brands = brands_of(head)
    return bool(brands & HEIF_BRANDS) and not brands & AVIF_BRANDS


def open_heif(photo: Path | BinaryIO) -> ImageFile:
    """Read the headers of a HEIF photo.

    Raises:
        MissingExtra: neither module is installed.
        RuntimeFailure: the module cannot be loaded.
        SyntaxError: libheif refuses the file.
    """
    module = next(filter(is_installed, MODULES), None)
    if module is None:
        raise MissingExtra(MODULES[0], "heif")
    plugin = require(f"{module}.as_plugin", "heif")
    options: Any = importlib.import_module(f"{module}.options")
    # A decode process has one core; only the picture itself is needed.
    options.DECODE_THREADS, options.THUMBNAILS, options.DEPTH_IMAGES, options.AUX_IMAGES = 1, False, False, False
    image: ImageFile = plugin.HeifImageFile(photo)
    return image
