"""Tests of photos as frames of a model, from files and from bytes without a file.

The pixels equal those that a run reads.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import faulty_decoder
import numpy as np
import pytest
from PIL import Image
from small_media import write_photo, write_video

from vidrisk.decode import pool as pool_module
from vidrisk.decode.messages import Input, PhotoInput, ReadSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.decode.session import Limits
from vidrisk.frames import Frame
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

PIXEL = PixelSpec(24, 32, mean=(0, 0, 0), std=(1, 1, 1))
SETTINGS = ReadSettings(PIXEL, TimeSpec(4), slots=2)


def some_photos(folder: Path) -> list[Path]:
    """Write photos of several formats, sizes and orientations, and return their paths."""
    random = np.random.default_rng(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = []
    for number, (suffix, size) in enumerate(
        [("png", (40, 60)), ("jpg", (700, 500)), ("webp", (24, 32)), ("tif", (9, 90))]
    ):
        paths.append(folder / f"{number}.{suffix}")
        Image.fromarray(random.integers(0, 255, (*size, 3), np.uint8)).save(paths[-1], exif=exif)
    return paths


def test_frames_equal_those_of_a_run_to_the_bit(tmp_path: Path) -> None:
    paths = some_photos(tmp_path) * 3
    with DecodePool(2) as pool:
        expected = {
            read.id: read.item.pixels.copy()
            for read in pool.read((Input(number, str(path)) for number, path in enumerate(paths)), SETTINGS)
            if isinstance(read.item, Frame)
        }
        by_path = pool.photos([PhotoInput(7, str(path)) for path in paths], SETTINGS)
        by_content = pool.photos([PhotoInput(7, "", path.read_bytes()) for path in paths], SETTINGS)
    for found in (by_path, by_content):
        assert [end.state for _, end in found] == ["ok"] * len(paths)
        for number, (frame, end) in enumerate(found):
            assert frame is not None and frame.shape == (24, 32, 3) and np.array_equal(frame, expected[number])
            assert end.content == hashlib.sha256(paths[number].read_bytes()).hexdigest()


def test_what_is_no_photo_costs_itself_alone(tmp_path: Path) -> None:
    whole = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)).save(whole, quality=90)
    data = whole.read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) * 3 // 4])
    requests = [
        PhotoInput(0, str(whole)),
        PhotoInput(0, str(tmp_path / "gone.png")),
        PhotoInput(0, "", b"junk"),
        PhotoInput(0, "", b""),
        PhotoInput(0, write_video(tmp_path / "c.mp4", ("red",))),
        PhotoInput(0, str(tmp_path)),
        PhotoInput(0, "a\0b"),
        PhotoInput(0, str(tmp_path / "cut.jpg")),
        PhotoInput(0, "", data),
    ]
    with DecodePool(2) as pool:
        found = pool.photos(requests, SETTINGS)
        assert pool.photos([], SETTINGS) == []
    assert [frame is not None for frame, _ in found] == [True, *[False] * 6, True, True]
    assert [end.state for _, end in found] == ["ok", *["skipped"] * 6, "partial", "ok"]
    assert all(end.reason for frame, end in found if frame is None) and "video" in found[4][1].reason
    assert np.array_equal(found[0][0], found[8][0])  # type: ignore[arg-type]


def test_a_photo_that_crashes_its_decoder_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty_decoder.install(tmp_path, monkeypatch)
    monkeypatch.setattr(pool_module, "PHOTO_LIMITS", Limits(silence_s=5.0, input_s=10.0))
    paths = [write_photo(tmp_path / name, "red") for name in ("a.png", "segfault.png", "b.png")]
    with DecodePool(1) as pool:
        found = pool.photos([PhotoInput(0, path) for path in paths], SETTINGS)
    assert [end.state for _, end in found] == ["ok", "crashed", "ok"]
    assert [frame is not None for frame, _ in found] == [True, False, True]
