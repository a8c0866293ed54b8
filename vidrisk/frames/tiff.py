"""TIFF properties that Pillow leaves open: the page to read, the range of samples, and files that it would misread."""

from __future__ import annotations

from pathlib import Path

from PIL import ImagePalette
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COLORMAP,
    COMPRESSION,
    COMPRESSION_INFO,
    OPEN_INFO,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    TILELENGTH,
    TILEWIDTH,
    TiffImageFile,
)

from vidrisk.frames.levels import Samples
from vidrisk.frames.media import MAX_FRAME_PX, name_of
from vidrisk.frames.tiff_directories import Tag, read_directories
from vidrisk.runtimes.contract.errors import UnreadableError

MIN_SAMPLE, MAX_SAMPLE, SMIN_SAMPLE, SMAX_SAMPLE = 280, 281, 340, 341
REDUCED = 1
PLANAR = 2
SIGNED, FLOAT = 2, 3
KINDS = {1: "unsigned", SIGNED: "signed", FLOAT: "float"}
# Pillow can unpack these, but does not list them as supported: samples wider than 8 bits in which white is zero, and
# unsigned 32 bits in big-endian files.
for _prefix, _end in ((b"II", ""), (b"MM", "B")):
    OPEN_INFO.setdefault((_prefix, 0, (1,), 1, (16,), ()), (f"I;16{_end}", f"I;16{_end}"))
    OPEN_INFO.setdefault((_prefix, 0, (SIGNED,), 1, (16,), ()), ("I", f"I;16{_end}S"))
    for _photometric in (0, 1):
        OPEN_INFO.setdefault((_prefix, _photometric, (1,), 1, (32,), ()), ("I", f"I;32{_end}"))
        OPEN_INFO.setdefault((_prefix, _photometric, (SIGNED,), 1, (32,), ()), ("I", f"I;32{_end}S"))
# libtiff returns samples in the machine's byte order, which Pillow respects only for unsigned 16 bits.
NATIVE = {"I;16BS": "I;16NS", "I;32B": "I;32N", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
MAX_PAGES = 16
TIFF_MAGICS = (b"II*\0", b"MM\0*")
MAX_BITS, MAX_SAMPLES = 64, 64


def prepare_tiff(image: TiffImageFile, path: Path) -> Samples:
    """Seek the first full-size page, refuse what would be misread, and return the meaning of its samples.

    Raises:
        UnreadableError: tiles that are too large, or samples that Pillow misreads (skipped).
    """
    _seek_full_page(image)
    tags = image.tag_v2
    width, height = (int(tags.get(tag, 1)) for tag in (TILEWIDTH, TILELENGTH))
    if width * height > MAX_FRAME_PX:
        raise UnreadableError(
            f"{name_of(path)} has tiles of {width}x{height} pixels, the limit is {MAX_FRAME_PX // 10**6} million",
            state="too_large",
            fix="save it without tiles",
        )
    bits, kinds = tags.get(BITSPERSAMPLE, (1,)), tags.get(SAMPLEFORMAT, (1,))
    stated = _read_stated_range(image)
    if len(bits) > 1 and bits[0] > 8:
        if tags.get(PLANAR_CONFIGURATION) == PLANAR:
            raise UnreadableError(
                f"{name_of(path)} has {bits[0]}-bit colours in separate planes, which Pillow does not read",
                state="skipped",
                fix="save it with interleaved samples, or as 8 bits",
            )
        if stated and stated[1] < 2 ** (bits[0] - 1):  # Pillow keeps the upper 8 bits, which would be nearly empty
            raise UnreadableError(
                f"{name_of(path)} uses {bits[0]}-bit colours only up to {stated[1]:g}, which Pillow does not scale",
                state="skipped",
                fix="save it as 8 bits, or with the full range",
            )
    if image.use_load_libtiff:
        image.tile = [
            tile._replace(args=(NATIVE.get(tile.args[0], tile.args[0]), *tile.args[1:]))
            for tile in image.tile
            if isinstance(tile.args, tuple)
        ]
    if image.mode in ("P", "PA") and COLORMAP in tags and max(tags[COLORMAP]) < 256:
        image.palette = ImagePalette.raw(
            "RGB;L", bytes(tags[COLORMAP])
        )  # of 8 bits, which some programs write in violation of TIFF 6.0
    is_inverted = tags.get(PHOTOMETRIC_INTERPRETATION) == 0 and bits[0] > 8
    return Samples(bits[0] if len(bits) == 1 else 0, SIGNED in kinds, is_inverted, stated if len(bits) == 1 else None)


def unread_tiff(path: Path, head: bytes) -> UnreadableError | None:
    """Return the error for a TIFF that Pillow does not recognize.

    The result is None if Pillow should recognize it, or if the file is not a TIFF.
    """
    if not head.startswith(TIFF_MAGICS):
        return None
    with path.open("rb") as file:
        directories = read_directories(file)
    if not directories:
        return UnreadableError(
            f"{name_of(path)} cannot be decoded: it is a TIFF without a readable directory, cut or damaged"
        )
    first = directories[0]
    (samples, *_), bits, (kind, *_) = (first.get(tag, (1,)) for tag in (SAMPLESPERPIXEL, BITSPERSAMPLE, SAMPLEFORMAT))
    is_damaged = (
        BITSPERSAMPLE not in first
        or not all(0 < number <= MAX_BITS for number in bits)
        or not 0 < samples <= MAX_SAMPLES
        or kind not in KINDS
        or first.get(COMPRESSION, (1,))[0] not in COMPRESSION_INFO
        or not all(first.get(tag, (0,))[0] for tag in (Tag.WIDTH, Tag.HEIGHT))
    )
    if is_damaged:
        return None
    what = f"{samples} {KINDS[kind]} {'sample' if samples == 1 else 'samples'} of {bits[0]} bits a pixel"
    return UnreadableError(
        f"{name_of(path)} is a TIFF with {what}, which Pillow does not read",
        state="skipped",
        fix="save it as 8 bits, grey or RGB",
    )


def _seek_full_page(image: TiffImageFile) -> None:
    """Skip leading pages that are marked as previews."""
    page = 0
    try:
        while image.tag_v2.get(Tag.SUBFILE_TYPE, 0) & REDUCED and page < MAX_PAGES:
            page += 1
            image.seek(page)
    except (EOFError, SyntaxError, OSError, ValueError, TypeError, KeyError):  # the file has no other page
        image.seek(0)


def _read_stated_range(image: TiffImageFile) -> tuple[float, float] | None:
    """Return the smallest and the greatest value of samples wider than 8 bits.

    The result is None if the file does not state the greatest.
    """
    tags, bits = image.tag_v2, image.tag_v2.get(BITSPERSAMPLE, (1,))
    lows, highs = (
        [_numbers(tags[tag]) for tag in tag_pair if tag in tags]
        for tag_pair in ((SMIN_SAMPLE, MIN_SAMPLE), (SMAX_SAMPLE, MAX_SAMPLE))
    )
    low, high = min(lows[0]) if lows else 0.0, max(highs[0]) if highs else 0.0
    return (low, high) if bits[0] > 8 and low < high else None


def _numbers(value: float | tuple[float, ...]) -> list[float]:
    return [float(number) for number in (value if isinstance(value, tuple) else (value,))]
