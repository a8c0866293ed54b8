from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from numbered_clips import number_in_picture, write_clip
from phone_photos import dng, heic, jpeg, smooth
from PIL import Image
from small_media import write_photo

from vidrisk.decode.thumbnails import Thumbnail, thumbnails_at
from vidrisk.frames.video_pyav import PyAVSource


def picture(thumbnail: Thumbnail) -> np.ndarray:
    assert thumbnail.uri == f"data:image/webp;base64,{thumbnail.webp}"
    with Image.open(io.BytesIO(base64.b64decode(thumbnail.webp))) as image:
        assert image.size == (thumbnail.width, thumbnail.height)
        return np.asarray(image.convert("RGB"))


def test_the_frames_of_the_moments_in_the_order_asked_for(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=200, width=128, height=96)
    thumbnails = thumbnails_at(str(clip), [7.5, 0.0, 3.99, 7.5], 40_000)
    assert [number_in_picture(picture(thumbnail)) for thumbnail in thumbnails] == [187, 0, 99, 187]
    assert [thumbnail.time_s for thumbnail in thumbnails] == pytest.approx([7.48, 0.0, 3.96, 7.48])


def test_what_lies_before_a_late_moment_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=250, options={"g": "10", "bf": "0"})
    decoded = 0
    decode = PyAVSource._frames_from

    def counted(source: PyAVSource, packet: object) -> object:
        nonlocal decoded
        decoded += 1
        return decode(source, packet)  # type: ignore[arg-type]

    monkeypatch.setattr(PyAVSource, "_frames_from", counted)
    (thumbnail,) = thumbnails_at(str(clip), [9.0], 10_000)
    assert thumbnail.time_s == pytest.approx(9.0) and 0 < decoded <= 30


@pytest.mark.parametrize("moments", [1, 4, 8])
def test_all_pictures_stay_in_the_budget(moments: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    thumbnails = thumbnails_at(str(tmp_path / "noise.png"), [0.0] * moments, 12_000)
    assert len(thumbnails) == moments
    assert sum(len(base64.b64decode(thumbnail.webp)) for thumbnail in thumbnails) <= 12_000


def test_photos_have_no_time_and_keep_their_aspect(tmp_path: Path) -> None:
    (thumbnail,) = thumbnails_at(write_photo(tmp_path / "wide.png", size=(120, 40)), [0.0], 10_000)
    assert thumbnail.time_s is None and thumbnail.width == 3 * thumbnail.height


@pytest.mark.parametrize("name", ["a.heic", "a.dng", "cut.jpg"])
def test_photos_of_phones_and_cut_ones_have_one(name: str, tmp_path: Path) -> None:
    image = smooth(120, 80)
    content = {"a.heic": heic(image), "a.dng": dng(jpeg(image)), "cut.jpg": jpeg(image)[:-300]}[name]
    (tmp_path / name).write_bytes(content)
    (thumbnail,) = thumbnails_at(str(tmp_path / name), [0.0], 60_000)
    shown = np.asarray(image.resize((thumbnail.width, thumbnail.height))).astype(int)
    top = thumbnail.height // 2
    assert np.abs(picture(thumbnail).astype(int) - shown)[:top].mean() < 12


def test_a_file_that_has_gone_or_broken_has_none(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert thumbnails_at(str(tmp_path / "gone.mp4"), [0.0], 10_000) == ()
    assert thumbnails_at(str(tmp_path / "broken.mp4"), [0.0], 10_000) == ()
