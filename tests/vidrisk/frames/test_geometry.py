"""Tests of the resize rules, checked by the positions of the picture's contents."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vidrisk.frames.geometry import PAD_GREY, pixels_from_array, pixels_from_image
from vidrisk.runtimes.contract.specs import Interpolation, PixelSpec, ResizeRule

specs = st.builds(
    PixelSpec,
    height=st.integers(1, 96),
    width=st.integers(1, 96),
    resize=st.sampled_from(("squash", "crop", "pad")),
    crop_fraction=st.floats(0.1, 1.0),
    interpolation=st.sampled_from(("bilinear", "bicubic")),
)


def image_of(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), specs)
def test_any_image_becomes_the_shape_of_the_spec(width: int, height: int, spec: PixelSpec) -> None:
    pixels = pixels_from_image(Image.new("RGB", (width, height), (200, 10, 90)), spec)
    assert pixels.shape == spec.frame_shape and pixels.dtype == np.uint8
    inside = pixels if spec.resize != "pad" else pixels[(pixels != PAD_GREY).all(axis=2)]
    assert inside.size and (inside == (200, 10, 90)).all()  # a plain image stays plain, up to the last edge pixel


@settings(max_examples=60, deadline=None)
@given(st.integers(40, 300), st.integers(40, 300), st.sampled_from(("squash", "crop", "pad")))
def test_a_centred_marker_stays_centred(width: int, height: int, resize: ResizeRule) -> None:
    picture = np.zeros((height, width, 3), np.uint8)
    picture[height * 3 // 8 : height - height * 3 // 8, width * 3 // 8 : width - width * 3 // 8] = 255
    pixels = pixels_from_image(image_of(picture), PixelSpec(64, 48, resize)).astype(float)
    bright = np.where(pixels[..., 0] > PAD_GREY, pixels[..., 0], 0)
    rows, columns = np.indices(bright.shape)
    assert abs((rows * bright).sum() / bright.sum() - 31.5) < 0.8
    assert abs((columns * bright).sum() / bright.sum() - 23.5) < 0.8


def halves(width: int, height: int) -> Image.Image:
    """Return a picture that is red on the left and blue on the right.

    A green band of an eighth of the width covers the left and the right border.
    """
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, : width // 2, 0], picture[:, width // 2 :, 2] = 255, 255
    picture[:, : width // 8] = picture[:, -(width // 8) :] = (0, 255, 0)
    return image_of(picture)


def test_squash_keeps_everything() -> None:
    pixels = pixels_from_image(halves(400, 100), PixelSpec(64, 64, "squash"))
    assert (pixels[:, 3] == (0, 255, 0)).all() and (pixels[:, 60] == (0, 255, 0)).all()
    assert (pixels[:, 20] == (255, 0, 0)).all() and (pixels[:, 44] == (0, 0, 255)).all()


def test_crop_cuts_the_longer_side() -> None:
    pixels = pixels_from_image(halves(400, 100), PixelSpec(64, 64, "crop"))
    assert not pixels[..., 1].any()  # the green eighths are cut
    assert (pixels[:, 5] == (255, 0, 0)).all() and (pixels[:, 58] == (0, 0, 255)).all()


def test_pad_keeps_the_shape_on_grey() -> None:
    pixels = pixels_from_image(halves(400, 100), PixelSpec(64, 64, "pad"))
    assert (pixels[:24] == PAD_GREY).all() and (pixels[40:] == PAD_GREY).all()
    assert (pixels[24:40] != PAD_GREY).any(axis=2).all()
    assert (pixels[30, 2] == (0, 255, 0)).all() and (pixels[30, 20] == (255, 0, 0)).all()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crop_fraction_is_resize_to_256_and_cut_224(interpolation: Interpolation) -> None:
    smooth = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    image = image_of(smooth).resize((640, 512), Image.Resampling.BICUBIC)
    pixels = pixels_from_image(image, PixelSpec(224, 224, "crop", 0.875, interpolation))
    method = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC
    reference = np.asarray(image.resize((320, 256), method).crop((48, 16, 272, 240)))
    assert np.abs(pixels.astype(int) - reference).max() <= 2


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels = pixels_from_image(image_of(stripes), PixelSpec(32, 32))
    assert np.abs(pixels[2:-2, 2:-2].astype(int) - 128).max() <= 2


@pytest.mark.parametrize(
    "spec",
    [
        PixelSpec(20, 30),
        PixelSpec(20, 30, resize="pad"),
        PixelSpec(20, 30, resize="crop"),
        PixelSpec(20, 30, resize="crop", crop_fraction=0.5),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(20, 30), (33, 31)])
def test_an_array_is_resized_as_its_image_is(spec: PixelSpec, size: tuple[int, int]) -> None:
    array = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    np.testing.assert_array_equal(pixels_from_array(array, spec), pixels_from_image(Image.fromarray(array), spec))
