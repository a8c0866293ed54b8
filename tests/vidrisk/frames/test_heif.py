"""Tests of HEIF photos from phones.

They are stored in tiles, rotated, mirrored, with 10 bits, transparent, with several images, under a false
name or truncated.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from phone_photos import corners, deep_heic, encoded, exif_of, heic, jpeg, smooth, stored_as
from PIL import Image

from vidrisk.frames import decoder_versions, heif, jxl, probe, read_clips
from vidrisk.frames.geometry import PAD_GREY
from vidrisk.frames.photos import photo_size, read_photo
from vidrisk.runtimes.contract.errors import UnreadableError, is_installed
from vidrisk.runtimes.contract.specs import PixelSpec

SIZE = (192, 128)
SPEC = PixelSpec(128, 192)
TILE_PX = 64


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def difference(path: Path, image: Image.Image) -> float:
    """Return the mean absolute difference between the pixels of a photo and ``image``."""
    found = read_photo(path, PixelSpec(image.height, image.width)).pixels.astype(int)
    return float(np.abs(found - np.asarray(image)).mean())


@pytest.mark.parametrize("tile_px", [None, TILE_PX])
def test_a_photo_in_one_piece_and_in_tiles(tile_px: int | None, tmp_path: Path) -> None:
    image = smooth(*SIZE)
    path = written(tmp_path / "a.heic", heic(image, **({"tile_size": tile_px} if tile_px else {})))
    info = probe(path)
    assert (info.kind, info.width, info.height) == ("image", *SIZE) and difference(path, image) < 3


@pytest.mark.parametrize("tile_px", [None, TILE_PX])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_and_mirrored_once(orientation: int, tile_px: int | None, tmp_path: Path) -> None:
    """An orientation is applied once, although phones state it both in the container and in EXIF."""
    image = corners(*SIZE)
    options = {"tile_size": tile_px} if tile_px else {}
    path = written(tmp_path / "a.heic", heic(stored_as(image, orientation), orientation=orientation, **options))
    assert photo_size(path) == SIZE and difference(path, image) < 4


def test_exif_alone_does_not_turn(tmp_path: Path) -> None:
    """An orientation in EXIF alone does not rotate a photo, as ISO/IEC 23008-12 leaves this to the container."""
    image = corners(*SIZE)
    content = heic(image)
    upright, turned = exif_of(1)[6:], exif_of(6)[6:]
    changed = content.replace(upright, turned)
    assert changed != content and len(changed) == len(content)
    path = written(tmp_path / "a.heic", changed)
    assert photo_size(path) == SIZE and difference(path, image) < 4


def test_the_primary_image_counts(tmp_path: Path) -> None:
    images = [Image.new("RGB", (96, 64), colour) for colour in ("red", "lime", "blue")]
    for primary, image in enumerate(images):
        assert difference(written(tmp_path / f"{primary}.heic", heic(*images, primary=primary)), image) < 3


def test_ten_bits(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 192), (128, 1))
    values = np.stack([ramp, ramp[:, ::-1], ramp], axis=-1).astype(np.uint16)
    found = read_photo(written(tmp_path / "a.heic", deep_heic(values)), SPEC).pixels.astype(int)
    assert np.abs(found - values // 257).max() <= 3


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 96, 128))
    found = read_photo(written(tmp_path / "a.heic", heic(image)), SPEC).pixels
    assert found[:, :80].max() < 8 and found[:, 112:].min() > 247


@pytest.mark.parametrize("name", ["IMG_1.HEIC", "IMG_1.heif", "IMG_1.hif", "sent.jpg", "sent.png"])
def test_the_content_decides_whatever_the_name_says(name: str, tmp_path: Path) -> None:
    image = smooth(*SIZE)
    assert difference(written(tmp_path / name, heic(image)), image) < 3


def test_a_jpeg_named_heic_is_a_jpeg(tmp_path: Path) -> None:
    image = smooth(*SIZE)
    assert difference(written(tmp_path / "a.heic", jpeg(image)), image) < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_is_turned_once(orientation: int, tmp_path: Path) -> None:
    image = corners(*SIZE)
    content = encoded(stored_as(image, orientation), "AVIF", quality=95, subsampling="4:4:4", exif=exif_of(orientation))
    path = written(tmp_path / "a.avif", content)
    assert photo_size(path) == SIZE and difference(path, image) < 4


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_cut_grid_shows_the_tiles_that_are_there(orientation: int, tmp_path: Path) -> None:
    image = smooth(*SIZE)
    content = heic(stored_as(image, orientation), orientation=orientation, tile_size=TILE_PX)
    whole = read_photo(written(tmp_path / "whole.heic", content), SPEC)
    assert whole.damage is None
    cut = read_photo(written(tmp_path / "cut.heic", content[: -len(content) // 3]), SPEC)
    assert cut.damage is not None and 0.3 < cut.damage.missing < 0.7
    assert str(cut.damage) == f"the file is cut: {cut.damage.missing:.0%} of the picture is missing and shown in grey"
    is_grey = (cut.pixels == PAD_GREY).all(axis=-1)
    assert is_grey.mean() == pytest.approx(cut.damage.missing, abs=0.01)
    assert (cut.pixels == whole.pixels)[~is_grey].all()
    (clip,) = read_clips(tmp_path / "cut.heic", SPEC, None)
    assert clip.damage == cut.damage


@pytest.mark.parametrize("tile_px", [None, TILE_PX])
def test_cut_anywhere(tile_px: int | None, tmp_path: Path) -> None:
    content = heic(smooth(*SIZE), **({"tile_size": tile_px} if tile_px else {}))
    whole = read_photo(written(tmp_path / "a.heic", content), SPEC).pixels
    for end in range(1, len(content), 37):
        try:
            photo = read_photo(written(tmp_path / "a.heic", content[:end]), SPEC)
        except UnreadableError as error:
            assert error.state == "corrupt" and str(error).isprintable()
            continue
        # EXIF comes last in these files: without it, every pixel may be there
        expected = (photo.pixels == PAD_GREY) | (photo.pixels == whole) if photo.damage else photo.pixels == whole
        assert expected.all()


def test_a_stated_size_is_checked_before_anything_is_decoded(tmp_path: Path) -> None:
    content = bytearray(heic(Image.new("RGB", (64, 64))))
    at = content.index(b"ispe") + 8
    content[at : at + 8] = (20_000).to_bytes(4, "big") * 2
    with pytest.raises(UnreadableError, match=r"is 20000x20000 pixels, the limit is 100 million|cannot be decoded"):
        read_photo(written(tmp_path / "a.heic", bytes(content)), SPEC)


def test_types_of_items_that_are_no_text_do_not_end_the_process(tmp_path: Path) -> None:
    content = heic(smooth(*SIZE))
    for changed in (content.replace(b"Exif\0", b"Exi\x80\0", 1), content.replace(b"Exif\0", b"mime\0", 1)):
        try:
            read_photo(written(tmp_path / "a.heic", changed), SPEC)
        except UnreadableError as error:
            assert error.state == "corrupt" and str(error).isprintable()


def test_without_the_extra_it_is_skipped_and_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heif, "MODULES", ("no_such_module",))
    for name in ("a.heic", "sent.jpg"):
        with pytest.raises(
            UnreadableError,
            match=r"is a HEIF photo: no_such_module is not installed; "
            r"fix: pip install 'vidrisk\[heif\]'",
        ) as caught:
            read_photo(written(tmp_path / name, heic(smooth(*SIZE))), SPEC)
        assert caught.value.state == "skipped"


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("container", [False, True])
def test_jpeg_xl_where_a_plugin_is_installed(container: bool, orientation: int, tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl")
    for width, height in ((192, 128), (200, 120), (640, 360)):
        image = smooth(width, height)
        path = written(
            tmp_path / "a.jxl", encoded(image, "JXL", quality=95, use_container=container, exif=exif_of(orientation))
        )
        assert photo_size(path) == (width, height) and difference(path, image) < 4


def test_jpeg_xl_made_of_a_jpeg_is_turned_as_that_jpeg(tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl")
    image = corners(*SIZE)
    with Image.open(written(tmp_path / "a.jpg", jpeg(stored_as(image, 6), exif=exif_of(6)))) as file:
        path = written(tmp_path / "a.jxl", encoded(file, "JXL", lossless_jpeg=True))
    assert photo_size(path) == SIZE and difference(path, image) < 4


@pytest.mark.parametrize(
    "head",
    [
        b"\xff\x0a" + ((20_000 - 1) << 3 | 2 << 1 | 1 << 21).to_bytes(4, "little"),  # 18 bits of height, square
        jxl.CONTAINER
        + b"\0\0\0\x14ftypjxl \0\0\0\0jxl "
        + b"\0\0\0\0jxlc\xff\x0a"
        + ((20_000 - 1) << 3 | 2 << 1 | 1 << 21).to_bytes(4, "little"),
    ],
)
def test_a_large_jpeg_xl_is_refused_before_the_plugin_decodes_it(head: bytes, tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl")
    with pytest.raises(UnreadableError, match="is 20000x20000 pixels, the limit is 100 million") as caught:
        read_photo(written(tmp_path / "a.jxl", head + bytes(64)), SPEC)
    assert caught.value.state == "too_large"


def test_without_a_plugin_jpeg_xl_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jxl, "PLUGIN", "no_such_module")
    with pytest.raises(UnreadableError, match="is a JPEG XL photo, which this Pillow cannot read") as caught:
        read_photo(written(tmp_path / "a.jxl", b"\xff\x0a" + bytes(64)), SPEC)
    assert caught.value.state == "skipped"


def test_caches_know_the_decoders() -> None:
    from importlib.metadata import version

    assert is_installed("pi_heif") and version("pi-heif") in decoder_versions()
