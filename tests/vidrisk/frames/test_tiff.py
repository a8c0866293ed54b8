"""Tests of the interpretation of TIFF samples.

The samples are inverted, use fewer bits than they occupy, are signed, lie in separate planes or on a later
page.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from phone_photos import STRIPS, make_tiff, page_of

from vidrisk.frames.photos import photo_size, read_photo
from vidrisk.runtimes.contract.errors import UnreadableError
from vidrisk.runtimes.contract.specs import PixelSpec

HEIGHT, WIDTH = 32, 48
SPEC = PixelSpec(HEIGHT, WIDTH)
SHARE = np.tile(np.linspace(0, 1, WIDTH), (HEIGHT, 1))
RAMP = np.rint(SHARE * 255).astype(int)


def grey_of(content: bytes, tmp_path: Path) -> tuple[npt.NDArray[Any], str]:
    (tmp_path / "a.tif").write_bytes(content)
    photo = read_photo(tmp_path / "a.tif", SPEC)
    assert photo.damage is None and (photo.pixels == photo.pixels[..., :1]).all()
    return photo.pixels[..., 0].astype(int), photo.note


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("top", "dtype"), [(255, "u1"), (65535, "u2"), (1.0, "f4"), (255.0, "f4"), (65535.0, "f4")])
@pytest.mark.parametrize("photometric", [0, 1])
def test_white_is_zero_in_every_width(top: float, dtype: str, photometric: int, order: str, tmp_path: Path) -> None:
    values = ((1 - SHARE if photometric == 0 else SHARE) * top).astype(dtype)
    pixels, note = grey_of(make_tiff(page_of(values, photometric, order=order), order=order), tmp_path)
    assert np.abs(pixels - RAMP).max() <= 1 and note == ""


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("photometric", [0, 1])
def test_fewer_bits_than_a_sample_takes(bits: int, photometric: int, tmp_path: Path) -> None:
    top = 2**bits - 1
    values = np.rint((1 - SHARE if photometric == 0 else SHARE) * top).astype("u2")
    pixels, note = grey_of(make_tiff(page_of(values, photometric, t281=("H", [top]))), tmp_path)
    assert np.abs(pixels - RAMP).max() <= 1 and note == ""
    dark, _ = grey_of(make_tiff(page_of(values // 2, 1, t281=("H", [top]))), tmp_path)
    assert dark.max() <= 128  # the range is the file's, not the picture's own


@pytest.mark.parametrize(("dtype", "low", "high"), [("u2", 7000, 9000), ("i2", -500, 3000), ("f4", -20.5, 120.25)])
def test_a_stated_range_is_kept_and_said(dtype: str, low: float, high: float, tmp_path: Path) -> None:
    kind = {"u2": "H", "i2": "i", "f4": "f"}[dtype]
    values = (low + SHARE / 2 * (high - low)).astype(dtype)
    pixels, note = grey_of(make_tiff(page_of(values, t340=(kind, [low]), t341=(kind, [high]))), tmp_path)
    assert (
        np.abs(pixels - RAMP / 2).max() <= 1 and note == f"black is {low:g} and white is {high:g}, as the file states"
    )


def test_a_false_range_is_ignored_and_said(tmp_path: Path) -> None:
    values = np.rint(SHARE * 60000).astype("u2")
    pixels, note = grey_of(make_tiff(page_of(values, t280=("H", [0]), t281=("H", [1]))), tmp_path)
    assert np.abs(pixels - RAMP * 60000 / 65535).max() <= 1
    assert note == "the file states values from 0 to 1 and holds 0 to 60000: the stated range is ignored"


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("i2", -300, 4000), ("i4", -(10**6), 10**6), ("u4", 0, 2**32 - 1), ("f4", -1, 1)]
)
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("order", ["<", ">"])
def test_what_has_no_usual_range_is_stretched_and_said(
    dtype: str, low: float, high: float, order: str, photometric: int, tmp_path: Path
) -> None:
    share = 1 - SHARE if photometric == 0 else SHARE
    values = (low + share * (high - low)).astype(dtype)
    pixels, note = grey_of(make_tiff(page_of(values, photometric, order=order), order=order), tmp_path)
    assert np.abs(pixels - RAMP).max() <= 1 and "are stretched from black to white" in note


def test_bytes_with_a_sign(tmp_path: Path) -> None:
    pixels, note = grey_of(make_tiff(page_of((RAMP - 128).astype("i1"))), tmp_path)
    assert (pixels == RAMP).all() and "its values, -128 to 127, are stretched" in note


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("dtype", "top"), [("u1", 255), ("u2", 65535), ("i2", 32767), ("i4", 65535), ("u4", 2**32 - 1), ("f4", 1)]
)
def test_compressed_samples_have_the_order_of_the_machine(dtype: str, top: float, order: str, tmp_path: Path) -> None:
    page = page_of((SHARE * top).astype(dtype), order=order)
    pixels, _ = grey_of(make_tiff(page | {259: ("H", [8]), STRIPS: zlib.compress(page[STRIPS])}, order=order), tmp_path)
    assert np.abs(pixels - RAMP).max() <= 1


@pytest.mark.parametrize(("dtype", "top"), [("i1", 127), ("i2", 32767)])
def test_a_sign_takes_one_bit(dtype: str, top: int, tmp_path: Path) -> None:
    pixels, note = grey_of(make_tiff(page_of(np.rint(SHARE * top).astype(dtype))), tmp_path)
    assert np.abs(pixels - RAMP).max() <= 2 and note == ""


@pytest.mark.parametrize("planar", [False, True])
def test_colours_in_one_or_three_planes(planar: bool, tmp_path: Path) -> None:
    values = np.stack([RAMP, 255 - RAMP, np.full_like(RAMP, 40)], axis=-1).astype("u1")
    (tmp_path / "a.tif").write_bytes(make_tiff(page_of(values, 2, planar=planar)))
    assert (read_photo(tmp_path / "a.tif", SPEC).pixels == values).all()


def test_colours_of_16_bits(tmp_path: Path) -> None:
    values = np.rint(np.stack([SHARE, 1 - SHARE, SHARE / 2], axis=-1) * 65535).astype("u2")
    (tmp_path / "a.tif").write_bytes(make_tiff(page_of(values, 2)))
    assert np.abs(read_photo(tmp_path / "a.tif", SPEC).pixels.astype(int) - values // 257).max() <= 1


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (page_of(np.zeros((HEIGHT, WIDTH, 3), "u2"), 2, planar=True), "has 16-bit colours in separate planes"),
        (page_of(np.zeros((HEIGHT, WIDTH, 3), "u2"), 2, t281=("H", [4095] * 3)), "uses 16-bit colours only up to 4095"),
        (page_of(np.zeros((HEIGHT, WIDTH, 3), "f4"), 2), "is a TIFF with 3 float samples of 32 bits a pixel"),
        (page_of(np.zeros((HEIGHT, WIDTH, 6), "u1"), 1), "is a TIFF with 6 unsigned samples of 8 bits a pixel"),
        (
            page_of(np.zeros((HEIGHT, WIDTH), "u2"), 1) | {258: ("H", [14])},
            "is a TIFF with 1 unsigned sample of 14 bits a pixel",
        ),
    ],
)
def test_what_is_not_read_rightly_is_refused(page: dict[int, Any], reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(make_tiff(page))
    with pytest.raises(UnreadableError, match=reason) as caught:
        read_photo(tmp_path / "a.tif", SPEC)
    assert caught.value.state == "skipped" and caught.value.fix is not None and "save it" in caught.value.fix


@pytest.mark.parametrize("scale", [1, 257])
def test_palettes_of_8_and_of_16_bits(scale: int, tmp_path: Path) -> None:
    """Palettes of 16 bits, as TIFF 6.0 requires, and of 8 bits, as some programs write, are both read."""
    colours = np.array([np.arange(256), 255 - np.arange(256), np.full(256, 7)])
    page = page_of(RAMP.astype("u1"), 3, t320=("H", (colours * scale).reshape(-1).tolist()))
    (tmp_path / "a.tif").write_bytes(make_tiff(page))
    assert (read_photo(tmp_path / "a.tif", SPEC).pixels == colours.T[RAMP]).all()


def test_the_first_page_that_is_no_preview(tmp_path: Path) -> None:
    sizes_and_levels = ((8, 12), 1), ((HEIGHT, WIDTH), 90), ((64, 64), 3)
    small, whole, other = (page_of(np.full(size, level, "u1")) for size, level in sizes_and_levels)
    (tmp_path / "a.tif").write_bytes(make_tiff(small | {254: 1}, whole, other))
    assert (read_photo(tmp_path / "a.tif", SPEC).pixels == 90).all() and photo_size(tmp_path / "a.tif") == (
        WIDTH,
        HEIGHT,
    )
    (tmp_path / "b.tif").write_bytes(make_tiff(whole, other))
    assert (read_photo(tmp_path / "b.tif", SPEC).pixels == 90).all()
    (tmp_path / "c.tif").write_bytes(make_tiff(small | {254: 1}))
    assert (read_photo(tmp_path / "c.tif", SPEC).pixels == 1).all()


def test_a_later_page_that_is_too_large_is_not_decoded(tmp_path: Path) -> None:
    small = page_of(np.full((8, 12), 1, "u1"))
    (tmp_path / "a.tif").write_bytes(make_tiff(small | {254: 1}, small | {256: 20_000, 257: 20_000, 278: 20_000}))
    with pytest.raises(UnreadableError, match="is 20000x20000 pixels, the limit is 100 million") as caught:
        read_photo(tmp_path / "a.tif", SPEC)
    assert caught.value.state == "too_large"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_a_tiff_whose_directory_is_cut_off_is_called_one(tmp_path: Path) -> None:
    content = make_tiff(page_of(RAMP.astype("u1")))
    (tmp_path / "a.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableError, match="it is a TIFF without a readable directory, cut or damaged") as caught:
        read_photo(tmp_path / "a.tif", SPEC)
    assert caught.value.state == "corrupt"
