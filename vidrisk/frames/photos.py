"""Photos of every mode → one upright RGB image, through Pillow.

Orientation follows EXIF. Transparent pixels are laid on white, as a viewer shows them. 16-bit grey keeps its full range
(65535 is white). Of an animation the first frame is taken.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from vidrisk.frames.geometry import pixels_from_image
from vidrisk.frames.media import MAX_FRAME_PX, check_size, name_of
from vidrisk.runtimes.errors import UnreadableError
from vidrisk.runtimes.specs import PixelSpec

logger = logging.getLogger(__name__)

# Pillow warns above this many pixels and refuses above twice as many, both before it allocates them.
Image.MAX_IMAGE_PIXELS = MAX_FRAME_PX
# JPEGs are decoded at 1/2, 1/4 or 1/8 of their size as long as this many times the model's input is left.
DRAFT_GAP = 2
WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def photo_size(path: Path) -> tuple[int, int]:
    """(width, height) of a photo as it is seen.

    Raises:
        UnreadableError: corrupt or too_large.
    """
    image = _upright_image(path, draft_side=None)
    return image.size


def pixels_from_photo(path: Path, spec: PixelSpec) -> npt.NDArray[np.uint8]:
    """Read a photo as uint8 (spec.height, spec.width, 3).

    Raises:
        UnreadableError: corrupt or too_large.
    """
    image = _upright_image(path, draft_side=DRAFT_GAP * max(spec.height, spec.width) / spec.crop_fraction)
    try:
        rgb = rgb_from_image(image)
    except ValueError as error:
        raise UnreadableError(f"{name_of(path)}: {error}") from error
    return pixels_from_image(rgb, spec)


def _upright_image(path: Path, draft_side: float | None) -> Image.Image:
    """Decode a photo, rotated as EXIF says. ``draft_side``: the shorter side, in pixels, that a JPEG must keep."""
    try:
        with Image.open(path) as image:
            check_size(image.width, image.height, path)
            if draft_side is not None:
                image.draft(None, (round(draft_side), round(draft_side)))
            image.load()
            return _oriented(image, path)
    except UnreadableError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise UnreadableError(f"{name_of(path)} has too many pixels: {error}", state="too_large",
                              fix="scale it down first") from error
    except Exception as error:  # Pillow's plugins raise whatever their parsing trips over
        reason = str(error).replace(repr(str(path)), "the file") or type(error).__name__
        raise UnreadableError(f"{name_of(path)} cannot be decoded: {reason}") from error


def _oriented(image: Image.Image, path: Path) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # malformed EXIF must not cost the photo
        logger.debug("%s: EXIF orientation ignored: %s", name_of(path), error)
        return image.copy()


def rgb_from_image(image: Image.Image) -> Image.Image:
    """Any Pillow image as mode RGB.

    Raises:
        ValueError: a mode that Pillow cannot convert, or values that are not finite.
    """
    if image.mode in WIDE_MODES:
        return Image.fromarray(_bytes_from_wide(np.asarray(image), image.mode)).convert("RGB")
    if image.mode in ("RGBa", "La") or image.has_transparency_data:
        rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _bytes_from_wide(values: npt.NDArray[np.generic], mode: str) -> npt.NDArray[np.uint8]:
    """Integers or floats as uint8 grey: the file states no range, so the mode and the values decide.

    16-bit: 0 to 65535. 32-bit integers: the same when they fit (some 16-bit files open so). Floats: 0 to 1, to 255
    or to 65535, the first that holds them. Anything else is stretched from its least to its greatest value.
    """
    grey = values.astype(np.float64)
    if not np.isfinite(grey).all():
        raise ValueError("the image holds values that are not finite")
    low, high = float(grey.min()), float(grey.max())
    ranges = (1.0, 255.0, 65535.0) if mode == "F" else (65535.0,)
    top = next((top for top in ranges if low >= 0 and high <= top), None)
    if top is None:
        grey, top = grey - low, max(high - low, np.finfo(np.float64).tiny)
    return np.rint(grey * (255.0 / top)).astype(np.uint8)
