"""Tests of raw photos from drones and cameras, which are read by their embedded JPEG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from phone_photos import (
    JPEG_AT,
    corners,
    cr2,
    dng,
    exif_of,
    jpeg,
    make_tiff,
    nef,
    page_of,
    raf,
    raw_data,
    smooth,
    stored_as,
)
from PIL import Image

from vidrisk.frames import FrameWindow, probe, read_frames
from vidrisk.frames.photos import photo_size, read_photo
from vidrisk.runtimes.contract.errors import UnreadableError
from vidrisk.runtimes.contract.specs import PixelSpec

SIZE = (192, 128)
SPEC = PixelSpec(128, 192)
IMAGE = smooth(*SIZE)
SMALL = jpeg(Image.new("RGB", (32, 24), "lime"))
NOTE = "shows the embedded JPEG preview of 192x128 pixels"


def content_of(suffix: str, image: Image.Image, orientation: int = 1) -> bytes:
    large = jpeg(image)
    return {
        "dng": lambda: dng(large, orientation=orientation),
        "nef": lambda: nef(large, SMALL, orientation=orientation),
        "arw": lambda: nef(SMALL, large, orientation=orientation),
        "cr2": lambda: cr2(large, SMALL, orientation=orientation),
        "rw2": lambda: make_tiff(raw_data(320, 240) | {274: ("H", [orientation]), 0x2E: large}, magic=85),
        "raf": lambda: raf(jpeg(image, exif=exif_of(orientation))),
    }[suffix]()


@pytest.mark.parametrize("suffix", ["dng", "nef", "arw", "cr2", "rw2", "raf"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_largest_preview_is_shown_upright_and_said(suffix: str, orientation: int, tmp_path: Path) -> None:
    image = corners(*SIZE)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content_of(suffix, stored_as(image, orientation), orientation))
    photo = read_photo(path, SPEC)
    assert np.abs(photo.pixels.astype(int) - np.asarray(image)).mean() < 4 and photo_size(path) == SIZE
    width, height = SIZE if orientation < 5 else SIZE[::-1]
    assert photo.note.startswith(f"shows the embedded JPEG preview of {width}x{height} pixels") and photo.damage is None


def test_the_note_goes_with_the_window_and_names_what_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "a.dng").write_bytes(content_of("dng", IMAGE))
    *_, window = read_frames(tmp_path / "a.dng", SPEC, None)
    assert isinstance(window, FrameWindow) and window.damage is None
    assert window.note == f"{NOTE}; its raw picture of 320x240 is not developed"
    assert probe(tmp_path / "a.dng").width == SIZE[0]


def test_a_preview_that_states_its_own_orientation_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "a.dng").write_bytes(dng(jpeg(IMAGE, exif=exif_of(1)), orientation=6))
    assert photo_size(tmp_path / "a.dng") == SIZE


def test_a_raw_photo_named_tif_does_not_pass_for_its_thumbnail(tmp_path: Path) -> None:
    for name, content in (("a.tif", content_of("dng", IMAGE)), ("b.tif", content_of("nef", IMAGE))):
        (tmp_path / name).write_bytes(content)
        photo = read_photo(tmp_path / name, SPEC)
        assert np.abs(photo.pixels.astype(int) - np.asarray(IMAGE)).mean() < 3 and photo.note.startswith(NOTE)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.dng", dng(None), "is a raw photo without a JPEG preview"),
        (
            "b.dng",
            dng(b"\xff\xd8\xff\xc3" + b"\0\x0b\x08\0\x80\0\xc0\1\1\x11\0" + bytes(50)),
            "is a raw photo without a JPEG preview",
        ),
        (
            "a.orf",
            make_tiff(page_of(np.zeros((4, 4), np.uint16)), magic=0x4F52),
            "is a raw photo without a JPEG preview",
        ),
        ("a.cr3", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(64), "is a raw photo in an unsupported format"),
    ],
)
def test_what_has_no_preview_is_skipped_with_the_reason(name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableError, match=reason) as caught:
        read_photo(tmp_path / name, SPEC)
    assert caught.value.state == "skipped" and "convert it" in str(caught.value.fix)


def test_directories_that_point_at_each_other_come_to_an_end(tmp_path: Path) -> None:
    content = bytearray(make_tiff({254: 1, 50706: ("B", [1, 4, 0, 0]), 330: [raw_data(8, 8), {JPEG_AT: jpeg(IMAGE)}]}))
    first = int.from_bytes(content[4:8], "little")
    content[first + 2 + 3 * 12 : first + 6 + 3 * 12] = first.to_bytes(4, "little")  # behind the last entry: itself
    (tmp_path / "a.dng").write_bytes(bytes(content))
    assert photo_size(tmp_path / "a.dng") == SIZE


def test_a_cut_preview_is_partial(tmp_path: Path) -> None:
    content = dng(jpeg(IMAGE))
    start = content.index(b"\xff\xd8")
    whole = bytearray(content)
    whole[start + len(jpeg(IMAGE)) // 2 : start + len(jpeg(IMAGE))] = bytes(len(jpeg(IMAGE)) - len(jpeg(IMAGE)) // 2)
    (tmp_path / "a.dng").write_bytes(bytes(whole))
    photo = read_photo(tmp_path / "a.dng", SPEC)
    assert photo.damage is not None and 0.2 < photo.damage.missing < 0.8 and photo.note.startswith(NOTE)
