"""Tests of photos of every mode, orientation and kind of damage."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vidrisk.frames import probe, read_clips
from vidrisk.frames.photos import read_photo
from vidrisk.runtimes.contract.errors import UnreadableError
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

SPEC = PixelSpec(32, 48)


def pixels_of(path: Path, spec: PixelSpec = SPEC) -> npt.NDArray[np.uint8]:
    (clip,) = read_clips(path, spec, None)
    assert clip.frames.shape == (1, *spec.frame_shape) and (clip.start_s, clip.end_s, clip.damage) == (None, None, None)
    pixels: npt.NDArray[np.uint8] = clip.frames[0]
    return pixels


def gradient(top: float, dtype: type[np.generic]) -> npt.NDArray[np.generic]:
    return np.tile(np.linspace(0, top, 96), (64, 1)).astype(dtype)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("1", "png"),
        ("L", "png"),
        ("P", "png"),
        ("RGB", "png"),
        ("RGB", "jpg"),
        ("L", "jpg"),
        ("CMYK", "jpg"),
        ("CMYK", "tif"),
        ("RGB", "bmp"),
        ("P", "gif"),
        ("RGB", "webp"),
        ("YCbCr", "jpg"),
        ("RGBA", "png"),
        ("LA", "png"),
        ("RGBA", "webp"),
    ],
)
def test_every_mode_of_a_plain_photo(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    grey = 255 if mode == "1" else 204  # both are in Pillow's palette
    Image.new("RGB", (96, 64), (grey, grey, grey)).convert(mode).save(path)
    assert np.abs(pixels_of(path).astype(int) - grey).max() <= 3


@pytest.mark.parametrize(
    ("top", "dtype", "suffix"),
    [
        (65535, np.uint16, "png"),
        (65535, np.uint16, "tif"),
        (65535, np.int32, "tif"),
        (1.0, np.float32, "tif"),
        (255.0, np.float32, "tif"),
        (65535.0, np.float32, "tif"),
        (1e6, np.int32, "tif"),
        (1e6, np.float32, "tif"),
    ],
)
def test_wide_greys_keep_their_range(tmp_path: Path, top: float, dtype: type[np.generic], suffix: str) -> None:
    path = tmp_path / f"wide.{suffix}"
    Image.fromarray(gradient(top, dtype)).save(path)
    reference = tmp_path / "narrow.png"
    Image.fromarray(gradient(255, np.uint8)).save(reference)
    assert np.abs(pixels_of(path).astype(int) - pixels_of(reference)).max() <= 1


def test_dark_16_bit_photos_stay_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((64, 96), 6553, np.uint16)).save(tmp_path / "dark.png")
    assert (pixels_of(tmp_path / "dark.png") == round(6553 / 257)).all()


def test_floats_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(UnreadableError, match="not finite") as caught:
        pixels_of(tmp_path / "nan.tif")
    assert caught.value.state == "corrupt"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (96, 64), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 48, 64))
    image.convert(mode).save(tmp_path / "cut.png")
    pixels = pixels_of(tmp_path / "cut.png")
    assert not pixels[:, :20].any() and (pixels[:, 28:] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((64, 96, 3), np.uint8)
    upright[:32, :48], upright[:32, 48:], upright[32:, :48] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    image = Image.fromarray(upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = image if undo is None else image.transpose(undo)
    stored.save(tmp_path / "turned.jpg", quality=95, subsampling=0, exif=exif)
    pixels = pixels_of(tmp_path / "turned.jpg", PixelSpec(64, 96)).astype(int)
    assert np.abs(pixels - upright)[8:24, 8:88].max() < 12 and np.abs(pixels - upright)[40:56, 8:88].max() < 12
    info = probe(tmp_path / "turned.jpg")
    assert (info.kind, info.width, info.height, info.frames) == ("image", 96, 64, 1)


def test_malformed_exif_does_not_cost_the_photo(tmp_path: Path) -> None:
    Image.new("RGB", (96, 64), (10, 200, 30)).save(tmp_path / "odd.png", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert (pixels_of(tmp_path / "odd.png") == (10, 200, 30)).all()


def test_of_an_animation_the_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (96, 64), colour) for colour in ("red", "lime", "blue")]
    for name in ("moving.gif", "moving.webp", "moving.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert (pixels_of(tmp_path / name) == (255, 0, 0)).all()


def test_a_large_jpeg_is_read_at_reduced_scale_without_a_visible_difference(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (12, 16, 3), np.uint8)
    image = Image.fromarray(noise).resize((1600, 1200), Image.Resampling.BICUBIC)
    image.save(tmp_path / "large.jpg", quality=95)
    image.save(tmp_path / "large.png")
    difference = np.abs(pixels_of(tmp_path / "large.jpg").astype(int) - pixels_of(tmp_path / "large.png"))
    assert difference.mean() < 1.0


def test_a_photo_is_repeated_for_a_clip_model(tmp_path: Path) -> None:
    Image.new("RGB", (20, 30), (1, 2, 3)).save(tmp_path / "one.png")
    (clip,) = read_clips(tmp_path / "one.png", SPEC, TimeSpec(5, 2.0))
    assert clip.frames.shape == (5, *SPEC.frame_shape) and clip.time_s.tolist() == [0.0] * 5
    assert (clip.frames == (1, 2, 3)).all()


def test_a_panorama_is_read_and_a_bomb_is_not(tmp_path: Path) -> None:
    """The size limit applies to the number of pixels, not to the longer side."""
    for name, size in (
        ("wide.png", (30_000, 400)),
        ("high.jpg", (90, 60_000)),
        ("thin.png", (1_200_000, 1)),
        ("wide.webp", (16_383, 60)),
    ):
        Image.new("RGB", size, (10, 200, 30)).save(tmp_path / name, quality=95)
        assert np.abs(pixels_of(tmp_path / name).astype(int) - (10, 200, 30)).max() <= 3
        assert (probe(tmp_path / name).width, probe(tmp_path / name).height) == size
    bomb = bytearray((tmp_path / "wide.png").read_bytes())
    bomb[16:24] = (100_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(bytes(bomb))
    with pytest.raises(UnreadableError, match="too many pixels") as caught:
        pixels_of(tmp_path / "bomb.png")
    assert caught.value.state == "too_large"


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "gif", "webp", "bmp"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_bytes_give_pixels_or_one_error(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    path = tmp_path / f"noise.{suffix}"
    Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)).save(path)
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        assert read_photo(path, SPEC).pixels.shape == SPEC.frame_shape
    except UnreadableError as error:
        assert error.state in ("corrupt", "too_large", "skipped")
