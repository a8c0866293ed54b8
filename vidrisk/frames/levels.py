"""Conversion of Pillow images of any mode to 8-bit RGB, in bands, with little memory beyond the pixels.

Transparent pixels are composited on white, as viewers show them. Samples wider than 8 bits are scaled to the range that
the file states, or that their type has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
BAND_PX = 1 << 20
MAX_16_BIT = 65535.0
DEPTHS = frozenset(2.0**bits - 1 for bits in range(1, 33))


@dataclass(frozen=True)
class Samples:
    """What a file states about its samples, beyond Pillow's mode.

    Attributes:
        bits: bits per sample; 0 if only the mode is known.
        is_signed: samples are signed integers.
        is_inverted: the smallest value is white, and Pillow does not invert it.
        range: the smallest and the greatest value, as the file states.
    """

    bits: int = 0
    is_signed: bool = False
    is_inverted: bool = False
    range: tuple[float, float] | None = None


@dataclass(frozen=True)
class _Levels:
    black: float
    white: float
    note: str = ""


def rgb_from_image(image: Image.Image, samples: Samples | None = None) -> tuple[Image.Image, str]:
    """Convert a Pillow image to mode RGB; also return a note on its brightness scaling.

    The note is '' for the usual range.

    Raises:
        ValueError: a mode that Pillow cannot convert, or values that are not finite.
    """
    samples = samples or Samples()
    if image.mode == "RGB" and not image.has_transparency_data:
        return image, ""
    is_wide = image.mode in WIDE_MODES or (image.mode == "L" and samples.is_signed)
    levels = _levels_of_wide(image, samples) if is_wide else None
    rgb = Image.new("RGB", image.size)
    for box, band in bands(image):
        rgb.paste(Image.fromarray(_bytes_from_wide(band, samples, levels)) if levels else _rgb_from_plain(band), box)
    return rgb, levels.note if levels else ""


def bands(image: Image.Image) -> Iterator[tuple[tuple[int, int], Image.Image]]:
    """Yield parts of an image of at most BAND_PX pixels: (left, top) and pixels, from top to bottom."""
    rows, columns = max(1, BAND_PX // image.width), min(image.width, BAND_PX)
    for top in range(0, image.height, rows):
        for left in range(0, image.width, columns):
            yield (left, top), image.crop((left, top, min(left + columns, image.width), min(top + rows, image.height)))


def _rgb_from_plain(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBa", "La") or image.has_transparency_data:
        rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _levels_of_wide(image: Image.Image, samples: Samples) -> _Levels:
    """Find the values that are black and white.

    These are the values that the file states, unless it holds others. Otherwise unsigned integers have the range of
    their bits, as have signed integers if none is below 0; 32-bit integers have the 16-bit range if they fit (some
    16-bit files are opened as 32-bit); floats have the first of the ranges 0 to 1, to 255 or to 65535 that holds them.
    Anything else is stretched from its smallest to its greatest value.
    """
    low, high = float("inf"), float("-inf")
    for _, band in bands(image):
        values = _values(band, samples)
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are not finite")
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    note = ""
    if samples.range:
        black, white = samples.range
        if black <= low and high <= white:
            said = (
                ""
                if black == 0 and white in DEPTHS
                else f"black is {black:g} and white is {white:g}, as the file states"
            )
            return _Levels(black, white, said)
        held = f"holds {low:g} to {high:g}: the stated range is ignored"
        note = f"the file states values from {black:g} to {white:g} and {held}"
    for white in _usual_whites(image.mode, samples):
        if low >= 0 and high <= white:
            return _Levels(0.0, white, note)
    stretched = f"its values, {low:g} to {high:g}, are stretched from black to white: the file states no range"
    return _Levels(low, max(high, low + float(np.finfo(np.float64).tiny)), note or stretched)


def _usual_whites(mode: str, samples: Samples) -> tuple[float, ...]:
    if mode == "F":
        return 1.0, 255.0, MAX_16_BIT
    if 0 < samples.bits <= 16:
        return (float(2 ** (samples.bits - samples.is_signed) - 1),)
    return (MAX_16_BIT,)


def _values(band: Image.Image, samples: Samples) -> npt.NDArray[Any]:
    """Return samples with the type of the file.

    Pillow has no unsigned 32-bit and no signed 8-bit mode, but preserves their bits.
    """
    values: npt.NDArray[Any] = np.asarray(band)
    if band.mode == "L" and samples.is_signed:
        return values.view(np.int8)
    if band.mode == "I" and samples.bits == 32 and not samples.is_signed:
        return values.view(np.uint32)
    return values


def _bytes_from_wide(band: Image.Image, samples: Samples, levels: _Levels) -> npt.NDArray[np.uint8]:
    share = (_values(band, samples).astype(np.float64) - levels.black) / (levels.white - levels.black)
    return np.rint((1 - share if samples.is_inverted else share) * 255.0).astype(np.uint8)
