"""Decoding of photos of every format and mode to one upright RGB image; the content decides, not the file name.

Orientation follows EXIF, except in HEIF and JPEG XL, which the decoder rotates itself. 16-bit grey keeps its full range
(65535 is white). Animations are read as their first frame. Missing parts of a cut photo are grey.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.AvifImagePlugin import SUPPORTED as HAS_AVIF
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from vidrisk.frames.clip import Damage
from vidrisk.frames.content import AVIF_BRANDS
from vidrisk.frames.geometry import PAD_GREY, pixels_from_image
from vidrisk.frames.heif import brands_of, is_heif, open_heif
from vidrisk.frames.heif_tiles import cut_heif
from vidrisk.frames.jpeg import MAX_SCANS, has_too_many_scans
from vidrisk.frames.jxl import is_jxl, open_jxl
from vidrisk.frames.levels import Samples, rgb_from_image
from vidrisk.frames.media import MAX_FRAME_PX, check_size, name_of
from vidrisk.frames.raw import preview_from_raw
from vidrisk.frames.recover import MOST_MISSING, Stored, load_or_recover
from vidrisk.frames.tiff import prepare_tiff, unread_tiff
from vidrisk.runtimes.contract.errors import MissingExtra, RuntimeFailure, UnreadableError
from vidrisk.runtimes.contract.specs import PixelSpec

logger = logging.getLogger(__name__)

# Formats that the content may have, whatever the suffix: for some others Pillow would start a PostScript interpreter.
PILLOW_FORMATS = tuple(
    kind.format
    for kind in (
        *((AvifImageFile,) if HAS_AVIF else ()),
        BmpImageFile,
        GifImageFile,
        JpegImageFile,
        PngImageFile,
        TiffImageFile,
        WebPImageFile,
    )
)
FORMATS = tuple(sorted({"AVIF", "HEIF", "JPEG XL", "raw", *PILLOW_FORMATS}))
# Pillow warns above this many pixels, before allocating them; here that is an error. Its other warnings name no file.
Image.MAX_IMAGE_PIXELS = MAX_FRAME_PX
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# JPEGs are decoded at 1/2, 1/4 or 1/8 of their size if the result is at least this many times the model's input.
DRAFT_GAP = 2
HEAD_BYTES = 4096
UPRIGHT = 1
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
CANON_BRAND = b"crx "


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo in the model's size.

    Attributes:
        pixels: uint8 (spec.height, spec.width, 3).
        damage: None if every pixel could be read.
        note: remark on a photo that could be read; '' if there is none.
    """

    pixels: npt.NDArray[np.uint8]
    damage: Damage | None
    note: str


@dataclass(frozen=True, eq=False)
class Upright:
    """An upright RGB photo. ``damage`` and ``note`` as in ``Photo``."""

    image: Image.Image
    damage: Damage | None
    note: str


def photo_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of the upright photo.

    Raises:
        UnreadableError: as ``read_photo``.
    """
    with _decode_photo(path, draft_side=None) as stored:
        width, height = stored.image.size
        return (height, width) if stored.orientation >= 5 else (width, height)


def read_photo(path: Path, spec: PixelSpec, on_image: Callable[[Image.Image], None] | None = None) -> Photo:
    """Read a photo in the size of the model's input.

    Args:
        path: path of the photo.
        spec: size and geometry of the pixels.
        on_image: called with the upright RGB image, before it is resized.

    Raises:
        UnreadableError: corrupt, too_large, or of an unsupported kind (skipped).
    """
    with _open_upright(path, DRAFT_GAP * max(spec.height, spec.width) / spec.crop_fraction) as photo:
        if on_image:
            on_image(photo.image)
        return Photo(pixels_from_image(photo.image, spec), photo.damage, photo.note)


def read_upright(path: Path, draft_side: float | None = None) -> Upright:
    """Read a photo as an upright RGB image.

    ``draft_side`` is the minimum shorter side, in pixels, of a JPEG decoded at reduced size; None keeps its size.

    Raises:
        UnreadableError: as ``read_photo``.
    """
    with _open_upright(path, draft_side) as photo:
        return photo


@contextmanager
def _open_upright(path: Path, draft_side: float | None) -> Iterator[Upright]:
    with _decode_photo(path, draft_side) as stored:
        rgb, brightness = rgb_from_image(stored.image, stored.samples)
        if stored.mask:
            rgb.paste((PAD_GREY,) * 3, mask=stored.mask)
        turn = TURNS.get(stored.orientation)
        upright = rgb.transpose(turn) if turn is not None else rgb
        yield Upright(upright, stored.damage, "; ".join(filter(None, (stored.note, brightness))))


def pixels_from_photo(path: Path, spec: PixelSpec) -> npt.NDArray[np.uint8]:
    """Read a photo as uint8 (spec.height, spec.width, 3).

    Raises:
        UnreadableError: as ``read_photo``.
    """
    return read_photo(path, spec).pixels


@contextmanager
def _decode_photo(path: Path, draft_side: float | None) -> Iterator[Stored]:
    """Decode a photo in the layout of its file.

    ``draft_side`` is the minimum shorter side, in pixels, of a JPEG decoded at reduced size.
    """
    name = name_of(path)
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        stored = _heif(path) if is_heif(head) else _jxl(path) if is_jxl(head) else _pillow(path, head, draft_side)
        with stored.image:
            yield stored
    except UnreadableError:
        raise
    except (MissingExtra, RuntimeFailure) as error:
        raise UnreadableError(f"{name} is a HEIF photo: {error.what}", state="skipped", fix=error.fix) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableError(
            f"{name} has too many pixels, the limit is {MAX_FRAME_PX // 10**6} million",
            state="too_large",
            fix="scale it down first",
        ) from error
    except MemoryError as error:
        raise UnreadableError(
            f"{name} does not fit into memory", state="too_large", fix="scale it down first"
        ) from error
    except UnidentifiedImageError as error:
        raise _unknown(path, head) from error
    except Exception as error:  # decoders raise all kinds of exceptions on malformed data
        reason = " ".join(str(error).replace(repr(str(path)), "the file").split()) or type(error).__name__
        raise UnreadableError(f"{name} cannot be decoded: {reason}") from error


def _pillow(path: Path, head: bytes, draft_side: float | None) -> Stored:
    raw = preview_from_raw(path, head)
    samples = Samples()

    def open_image(jpeg: bytes | None) -> Image.Image:
        nonlocal samples
        image = Image.open(io.BytesIO(jpeg) if jpeg else path, formats=PILLOW_FORMATS)
        try:
            if isinstance(image, TiffImageFile):
                samples = prepare_tiff(image, path)
            check_size(image.width, image.height, path)
            if draft_side is not None:
                image.draft(None, (round(draft_side), round(draft_side)))
        except BaseException:
            image.close()
            raise
        return image

    image = open_image(raw.jpeg if raw else None)
    jpeg = (raw.jpeg if raw else path.read_bytes()) if isinstance(image, JpegImageFile) else None
    if jpeg and has_too_many_scans(jpeg):
        image.close()
        raise UnreadableError(
            f"{name_of(path)} has more than {MAX_SCANS} scans", state="too_large", fix="save it as a baseline JPEG"
        )
    stored = load_or_recover(image, open_image, jpeg)
    orientation = _orientation(stored.image, path)
    if orientation is None and raw:
        orientation = raw.orientation
    return replace(stored, samples=samples, orientation=orientation or UPRIGHT, note=raw.note if raw else "")


def _heif(path: Path) -> Stored:
    cut = cut_heif(path)
    if cut and cut.stated_bytes * (1 - MOST_MISSING) > path.stat().st_size:
        raise ValueError("most of the file is missing")
    # libheif refuses a file that ends early, but not zeros where tiles should be
    content = io.BytesIO(path.read_bytes().ljust(cut.stated_bytes, b"\0")) if cut else None
    image = open_heif(content or path)
    try:
        check_size(image.width, image.height, path)
        image.load()
        return Stored.with_missing(image, cut.mask(image.size)) if cut else Stored(image)
    except BaseException:
        image.close()
        raise


def _jxl(path: Path) -> Stored:
    image = open_jxl(path)
    check_size(image.width, image.height, path)
    image.load()
    is_jpeg = bool(getattr(image, "jpeg", False))  # a reconstructed JPEG, which is not rotated yet
    return Stored(image, orientation=(_orientation(image, path) or UPRIGHT) if is_jpeg else UPRIGHT)


def _orientation(image: Image.Image, path: Path) -> int | None:
    """Return EXIF's orientation, or None if it is not stated."""
    try:
        stated = image.getexif().get(Base.Orientation)
    except Exception as error:  # malformed EXIF must not cost the photo
        logger.debug("%s: EXIF orientation ignored: %s", name_of(path), error)
        return None
    return stated if isinstance(stated, int) else None


def _unknown(path: Path, head: bytes) -> UnreadableError:
    """Return the error for a file that Pillow does not recognize, with the reason as far as known."""
    brands = brands_of(head)
    if brands & AVIF_BRANDS and HAS_AVIF:
        return UnreadableError(f"{name_of(path)} cannot be decoded: it is an AVIF photo that is cut or damaged")
    if brands & AVIF_BRANDS:
        return UnreadableError(
            f"{name_of(path)} is an AVIF photo, and this Pillow was built without AVIF",
            state="skipped",
            fix="pip install --force-reinstall pillow",
        )
    if CANON_BRAND in brands:
        return UnreadableError(
            f"{name_of(path)} is a raw photo in an unsupported format (CR3)",
            state="skipped",
            fix="convert it to DNG or JPEG",
        )
    return unread_tiff(path, head) or UnreadableError(
        f"{name_of(path)} cannot be decoded: its format is not one of {', '.join(FORMATS)}, or its beginning is damaged"
    )
