"""Photos of every mode → one upright RGB image, through Pillow.

Orientation follows EXIF. Transparent pixels are laid on white, as a viewer shows them. 16-bit grey keeps its full range
(65535 is white). Of an animation the first frame is taken.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from vidrisk.frames.geometry import pixels_from_image
from vidrisk.frames.jpeg import MAX_SCANS, has_too_many_scans
from vidrisk.frames.media import MAX_FRAME_PX, check_size, name_of
from vidrisk.runtimes.errors import UnreadableError
from vidrisk.runtimes.specs import PixelSpec

logger = logging.getLogger(__name__)

# What the content may be, whatever the suffix says: Pillow would start a PostScript interpreter for a file that asks for it.
FORMATS = tuple(kind.format for kind in (BmpImageFile, GifImageFile, JpegImageFile, PngImageFile, TiffImageFile, WebPImageFile))
# Pillow warns above this many pixels, before it allocates them; here that is an error. Its other warnings name no file.
Image.MAX_IMAGE_PIXELS = MAX_FRAME_PX
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# JPEGs are decoded at 1/2, 1/4 or 1/8 of their size as long as this many times the model's input is left.
DRAFT_GAP = 2
WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
# Modes are converted in bands of this size: a large photo takes little more memory than its pixels.
BAND_PX = 1 << 20


def photo_size(path: Path) -> tuple[int, int]:
    """(width, height) of a photo as it is seen.

    Raises:
        UnreadableError: corrupt or too_large.
    """
    with _upright_image(path, draft_side=None) as image:
        return image.size


def pixels_from_photo(path: Path, spec: PixelSpec) -> npt.NDArray[np.uint8]:
    """Read a photo as uint8 (spec.height, spec.width, 3).

    Raises:
        UnreadableError: corrupt or too_large.
    """
    with _upright_image(path, draft_side=DRAFT_GAP * max(spec.height, spec.width) / spec.crop_fraction) as image:
        rgb = rgb_from_image(image)
    return pixels_from_image(rgb, spec)


@contextmanager
def _upright_image(path: Path, draft_side: float | None) -> Iterator[Image.Image]:
    """A decoded photo, rotated as EXIF says. ``draft_side``: the shorter side, in pixels, that a JPEG must keep."""
    name = name_of(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            check_size(image.width, image.height, path)
            _check_work(image, path)
            if draft_side is not None:
                image.draft(None, (round(draft_side), round(draft_side)))
            image.load()
            yield _oriented(image, path)
    except UnreadableError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableError(f"{name} has too many pixels, the limit is {MAX_FRAME_PX // 10**6} million",
                              state="too_large", fix="scale it down first") from error
    except MemoryError as error:
        raise UnreadableError(f"{name} does not fit into memory", state="too_large", fix="scale it down first") from error
    except UnidentifiedImageError as error:
        raise UnreadableError(f"{name} cannot be decoded: it is none of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow's plugins raise whatever their parsing trips over
        reason = str(error).replace(repr(str(path)), "the file") or type(error).__name__
        raise UnreadableError(f"{name} cannot be decoded: {reason}") from error


def _check_work(image: Image.Image, path: Path) -> None:
    """Refuse a small file that asks for a decoder's memory or time beyond what its picture needs."""
    if isinstance(image, TiffImageFile):
        width, height = (int(image.tag_v2.get(tag, 1)) for tag in (TILEWIDTH, TILELENGTH))
        if width * height > MAX_FRAME_PX:
            raise UnreadableError(f"{name_of(path)} has tiles of {width}x{height} pixels, the limit is "
                                  f"{MAX_FRAME_PX // 10**6} million", state="too_large", fix="save it without tiles")
    if isinstance(image, JpegImageFile) and has_too_many_scans(path):
        raise UnreadableError(f"{name_of(path)} has more than {MAX_SCANS} scans", state="too_large",
                              fix="save it as a baseline JPEG")


def _oriented(image: Image.Image, path: Path) -> Image.Image:
    try:
        upright = image.getexif().get(Base.Orientation, 1) == 1
        return image if upright else ImageOps.exif_transpose(image)
    except Exception as error:  # malformed EXIF must not cost the photo
        logger.debug("%s: EXIF orientation ignored: %s", name_of(path), error)
        return image


def rgb_from_image(image: Image.Image) -> Image.Image:
    """Any Pillow image as mode RGB.

    Raises:
        ValueError: a mode that Pillow cannot convert, or values that are not finite.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    low, top = _range_of_wide(image) if image.mode in WIDE_MODES else (0.0, 0.0)
    rgb = Image.new("RGB", image.size)
    for box, band in _bands(image):
        rgb.paste(Image.fromarray(_bytes_from_wide(band, low, top)) if top else _rgb_from_plain(band), box)
    return rgb


def _bands(image: Image.Image) -> Iterator[tuple[tuple[int, int], Image.Image]]:
    """(left, top) and rows of an image, from top to bottom."""
    rows = max(1, BAND_PX // image.width)
    for top in range(0, image.height, rows):
        yield (0, top), image.crop((0, top, image.width, min(top + rows, image.height)))


def _rgb_from_plain(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBa", "La") or image.has_transparency_data:
        rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _range_of_wide(image: Image.Image) -> tuple[float, float]:
    """(value that is black, width of the range) of integers or floats: the file states none, so mode and values decide.

    16-bit: 0 to 65535. 32-bit integers: the same when they fit (some 16-bit files open so). Floats: 0 to 1, to 255
    or to 65535, the first that holds them. Anything else is stretched from its least to its greatest value.
    """
    low, high = float("inf"), float("-inf")
    for _, band in _bands(image):
        values = np.asarray(band)
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are not finite")
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    top = next((top for top in ranges if low >= 0 and high <= top), None)
    return (0.0, top) if top else (low, max(high - low, float(np.finfo(np.float64).tiny)))


def _bytes_from_wide(image: Image.Image, low: float, top: float) -> npt.NDArray[np.uint8]:
    return np.rint((np.asarray(image).astype(np.float64) - low) * (255.0 / top)).astype(np.uint8)
