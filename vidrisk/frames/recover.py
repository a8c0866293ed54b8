"""Decoding of incomplete photos: existing pixels are decoded, and missing pixels are identified.

Pillow decodes cut files only under a process-wide switch (``ImageFile.LOAD_TRUNCATED_IMAGES``), and does not report
what is missing. Here a photo that fails is decoded twice, with different fillers in place of the missing data. Pixels
that differ are those that the file does not hold.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageStat

from vidrisk.frames.clip import Damage
from vidrisk.frames.jpeg import EOI, SOS, JpegScans, scans_in_jpeg
from vidrisk.frames.levels import Samples, bands

# Fraction of the pixels. A photo that lacks more of them shows too little to be judged.
MOST_MISSING = 0.9
_RESTARTS = 8
_BITS = bytes(random.Random(0).choices(range(255), k=2 * _RESTARTS * 512))


@dataclass(frozen=True, eq=False)
class Stored:
    """A decoded photo in the layout of its file.

    Attributes:
        orientation: EXIF orientation, which has to be applied to display it upright.
        mask: 255 where pixels are missing.
        damage: None if every pixel is present.
        note: remark on a photo that could be read.
    """

    image: Image.Image
    samples: Samples = field(default_factory=Samples)
    orientation: int = 1
    mask: Image.Image | None = None
    damage: Damage | None = None
    note: str = ""

    @classmethod
    def with_missing(cls, image: Image.Image, mask: Image.Image, *, is_coarse: bool = False) -> Stored:
        """Make a photo that lacks the pixels of a mask.

        Raises:
            ValueError: it lacks more than MOST_MISSING.
        """
        share = ImageStat.Stat(mask).mean[0] / 255
        if share > MOST_MISSING:
            raise ValueError(f"{share:.0%} of its pixels are missing")
        return cls(image, mask=mask, damage=Damage(missing=share, is_coarse=is_coarse)) if share else cls(image)


def load_or_recover(image: Image.Image, reopen: Callable[[bytes | None], Image.Image], jpeg: bytes | None) -> Stored:
    """Decode a photo, or those of its pixels that are present.

    Args:
        image: opened, not decoded.
        reopen: opens it again, or a JPEG in its place.
        jpeg: the content, if it is a JPEG.

    Raises:
        Exception: Pillow's, if hardly anything can be decoded.
    """
    try:
        image.load()
        return Stored(image)
    except MemoryError:
        raise
    except Exception:
        image.close()
        scans = scans_in_jpeg(jpeg) if jpeg else None
        recovered = (
            _load_cut_jpeg(jpeg, scans, reopen)
            if jpeg and scans and scans.scans and not scans.has_end
            else _load_partly(lambda: reopen(jpeg))
        )
        if recovered is None:
            raise
        return recovered


def _load_cut_jpeg(data: bytes, scans: JpegScans, reopen: Callable[[bytes], Image.Image]) -> Stored | None:
    """Complete a JPEG in several ways that libjpeg accepts; rows are missing from the first difference on."""
    data = data[: scans.size]
    first = reopen(data + EOI)
    first.load()
    rows = []
    for rest in _completions(data):
        with reopen(data + rest + EOI) as other:
            other.load()
            rows += [top + box[1] for (_, top), mask in _differences(first, other) if (box := mask.getbbox())][:1]
    row = min(rows, default=None)
    if row is None and scans.has_all_scans:
        return Stored(first)
    if row is None or not scans.starts_picture:
        return Stored(first, damage=Damage(is_coarse=True))
    mask = Image.new("L", first.size)
    mask.paste(255, (0, row, *first.size))
    return _if_enough(first, mask, is_coarse=not scans.has_all_scans)


def _completions(data: bytes) -> Iterator[bytes]:
    """Yield substitutes for the missing end of a JPEG, which libjpeg itself would fill with zeros.

    Whatever the codes are, some of this many bits decode to something; one substitute begins with ones and one with
    ones and zeros, because a code of only ones may be invalid. The restart markers follow in order, because bits before
    an expected one are skipped.
    """
    places = [data.rfind(bytes((0xFF, 0xD0 + number)), data.rfind(SOS)) for number in range(_RESTARTS)]
    last = places.index(max(places)) if max(places) >= 0 else -1
    for start in (b"\xfe", b"\x5a"):
        yield start + b"".join(
            _BITS[512 * n : 512 * n + 512] + bytes((0xFF, 0xD0 + (last + 1 + n) % _RESTARTS))
            for n in range(2 * _RESTARTS)
        )


def _load_partly(reopen: Callable[[], Image.Image]) -> Stored | None:
    """Decode over two backgrounds; pixels that show the background are missing.

    This works for formats that Pillow decodes piece by piece.
    """
    first, other = (_load_over(reopen(), level) for level in (0, 255))
    if first is None or other is None:
        return None
    mask = Image.new("L", first.size)
    with other:
        for box, difference in _differences(first, other):
            mask.paste(difference, box)
    return _if_enough(first, mask)


def _if_enough(image: Image.Image, mask: Image.Image, *, is_coarse: bool = False) -> Stored | None:
    try:
        return Stored.with_missing(image, mask, is_coarse=is_coarse)
    except ValueError:
        image.close()
        return None


def _load_over(image: Image.Image, level: int) -> Image.Image | None:
    """Decode an image as far as possible over pixels of one level.

    The result is None for a format that is decoded completely or not at all.
    """
    decoder: Any = image
    if not decoder.tile:
        image.close()
        return None
    prepare, boxes = decoder.load_prepare, [tile[1] for tile in decoder.tile]

    def prepare_level() -> None:
        prepare()
        for box in boxes:
            decoder.im.paste(level if len(image.getbands()) == 1 else (level,) * len(image.getbands()), box)

    decoder.load_prepare = prepare_level
    try:
        image.load()
    except MemoryError:
        raise
    except Exception:  # the same error as before
        decoder.tile = []
    if decoder._im is None:
        image.close()
        return None
    decoder._size = decoder.im.size  # TIFF states the size after rotation, but rotates only complete images
    return image


def _differences(first: Image.Image, other: Image.Image) -> Iterator[tuple[tuple[int, int], Image.Image]]:
    """Compare two images band by band; yield (left, top) and a mask of the differences."""
    for (box, band), (_, other_band) in zip(bands(first), bands(other), strict=True):
        differs = np.asarray(band) != np.asarray(other_band)
        yield box, Image.fromarray((differs.any(axis=2) if differs.ndim == 3 else differs).astype(np.uint8) * 255)
