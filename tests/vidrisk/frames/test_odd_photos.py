"""Tests of photos that state a false size, hold too much, or would keep the decoder busy for minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from odd_photos import gif_with_frames, grey_png, jpeg, jpeg_of_size, jpeg_with_scans, tiff, webp_with_frames
from PIL import Image

from vidrisk.frames import levels, probe, read_clips
from vidrisk.frames.jpeg import MAX_SCANS
from vidrisk.frames.media import MAX_PHOTO_BYTES
from vidrisk.runtimes.contract.errors import UnreadableError
from vidrisk.runtimes.contract.specs import PixelSpec

SPEC = PixelSpec(48, 64)
TOO_MANY_PIXELS = "has too many pixels, the limit is 100 million"


def pixels_of(path: Path) -> npt.NDArray[np.uint8]:
    (clip,) = read_clips(path, SPEC, None)
    pixels: npt.NDArray[np.uint8] = clip.frames[0]
    return pixels


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("real.png", lambda: grey_png(16_000, 16_000), TOO_MANY_PIXELS),
        ("stated.png", lambda: grey_png(16_384, 16_384, whole=False), TOO_MANY_PIXELS),
        ("bit-over.png", lambda: grey_png(10_001, 10_001, whole=False), TOO_MANY_PIXELS),
        ("endless.png", lambda: grey_png(2**31 - 1, 2**31 - 1, whole=False), TOO_MANY_PIXELS),
        ("thin.png", lambda: grey_png(100_000_001, 1, whole=False), TOO_MANY_PIXELS),
        ("stated.jpg", lambda: jpeg_of_size(jpeg(), 16_000, 16_000), TOO_MANY_PIXELS),
        ("stated.tif", lambda: tiff({256: 2**31 - 1, 257: 2**31 - 1}), TOO_MANY_PIXELS),
        (
            "tiles.tif",
            lambda: tiff({322: 30_000, 323: 30_000}),
            "has tiles of 30000x30000 pixels, the limit is 100 million",
        ),
        ("scans.jpg", lambda: jpeg_with_scans(MAX_SCANS + 1), f"has more than {MAX_SCANS} scans"),
    ],
)
def test_what_is_too_large_is_refused_at_once(
    tmp_path: Path, name: str, content: Callable[[], bytes], message: str
) -> None:
    (tmp_path / name).write_bytes(content())
    for read in (pixels_of, probe):
        with pytest.raises(UnreadableError, match=message) as caught:
            read(tmp_path / name)
        assert caught.value.state == "too_large" and "\n" not in str(caught.value)


def test_a_file_too_large_for_a_photo_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.webp").open("wb") as file:
        file.truncate(MAX_PHOTO_BYTES + 1)
    with pytest.raises(UnreadableError, match="has 1000000001 bytes, the limit of photos is 1000000000") as caught:
        pixels_of(tmp_path / "sparse.webp")
    assert caught.value.state == "too_large"


@pytest.mark.parametrize("scans", [1, 10, MAX_SCANS])
def test_scans_of_an_honest_jpeg_are_read(tmp_path: Path, scans: int) -> None:
    content = jpeg() if scans == 1 else jpeg_with_scans(scans)
    (tmp_path / "a.jpg").write_bytes(content)
    expected = pixels_of(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(content + b"\xff\xda" * 1000)  # what a phone appends to a photo is no part of it
    assert (pixels_of(tmp_path / "a.jpg") == expected).all()


def test_a_small_file_cannot_keep_the_decoder_busy(tmp_path: Path) -> None:
    """A small file with too many scans is refused before the scans are decoded.

    Its scans of 100 million pixels each take a few megabytes, but decoding them would take minutes.
    """
    (tmp_path / "busy.jpg").write_bytes(jpeg_of_size(jpeg_with_scans(10_000), 9_999, 9_999))
    started_s = time.monotonic()
    with pytest.raises(UnreadableError, match="scans"):
        pixels_of(tmp_path / "busy.jpg")
    assert time.monotonic() - started_s < 5


@pytest.mark.parametrize(
    ("name", "content"), [("a.gif", gif_with_frames(10_000)), ("a.webp", webp_with_frames(10_000))]
)
def test_of_ten_thousand_frames_one_is_decoded(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with Image.open(tmp_path / name) as image:
        assert image.n_frames == 10_000  # type: ignore[attr-defined]
    started_s = time.monotonic()
    assert (pixels_of(tmp_path / name) == (255, 0, 0)).all(axis=-1).mean() > 0.99
    assert time.monotonic() - started_s < 2


@pytest.mark.filterwarnings("ignore:Tag data larger than file:UserWarning")
@pytest.mark.parametrize(
    "tags", [{273: 2**31}, {279: 2**32 - 1}, {277: 60_000}, {258: 2**30}, {259: 77}, {322: 0, 323: 0}, {256: 0}]
)
def test_absurd_tags_are_corrupt(tmp_path: Path, tags: dict[int, int]) -> None:
    (tmp_path / "plain.tif").write_bytes(tiff({}))
    assert not pixels_of(tmp_path / "plain.tif").any()
    (tmp_path / "absurd.tif").write_bytes(tiff(tags))
    try:
        assert not pixels_of(tmp_path / "absurd.tif").any()
    except UnreadableError as error:
        assert error.state == "corrupt"


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n",
        b"P6 64 48 255\n" + bytes(64 * 48 * 3),
    ],
)
def test_other_formats_do_not_hide_behind_a_suffix(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(
        UnreadableError, match="cannot be decoded: its format is not one of AVIF, BMP, GIF, HEIF, JPEG, JPEG XL"
    ) as caught:
        pixels_of(tmp_path / "a.jpg")
    assert caught.value.state == "corrupt"


@pytest.mark.parametrize(
    ("mode", "dtype"),
    [
        ("RGBA", np.uint8),
        ("LA", np.uint8),
        ("P", np.uint8),
        ("CMYK", np.uint8),
        ("I;16", np.uint16),
        ("I", np.int32),
        ("F", np.float32),
    ],
)
@pytest.mark.parametrize("pixels", [300, 40])
def test_bands_make_no_difference(
    mode: str, dtype: type[np.generic], pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(2).integers(0, 60_000, (90, 70))
    if dtype is np.uint8:
        image = Image.fromarray(np.stack([values % 256] * 4, axis=-1).astype(np.uint8), "RGBA").convert(mode)
    else:
        image = Image.fromarray(values.astype(dtype))
    assert image.mode == mode
    whole = np.asarray(levels.rgb_from_image(image)[0])
    monkeypatch.setattr(levels, "BAND_PX", pixels)
    assert (np.asarray(levels.rgb_from_image(image)[0]) == whole).all()
