"""Tests of photos that end too early.

The existing part is shown, the missing part is grey, and the share of the missing part is reported.
"""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from phone_photos import encoded, exif_of, jpeg, smooth
from PIL import Image, ImageFile

from vidrisk.frames import Damage, FrameWindow, read_clips, read_frames
from vidrisk.frames.geometry import PAD_GREY
from vidrisk.frames.photos import Photo, photo_size, read_photo
from vidrisk.frames.recover import MOST_MISSING
from vidrisk.runtimes.contract.errors import UnreadableError
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

SPEC = PixelSpec(96, 128)
IMAGE = smooth(128, 96)
NOISE = Image.fromarray(np.random.default_rng(3).integers(0, 256, (96, 128, 3), np.uint8))

# Kinds that are decoded piece by piece, and those that are whole or nothing.
PIECES: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline.jpg": ("JPEG", {}),
    "optimised.jpg": ("JPEG", {"optimize": True}),
    "restarts.jpg": ("JPEG", {"restart_marker_rows": 1}),
    "restarts-often.jpg": ("JPEG", {"restart_marker_blocks": 1}),
    "subsampled.jpg": ("JPEG", {"subsampling": 2, "quality": 90}),
    "turned.jpg": ("JPEG", {"exif": exif_of(3)}),
    "plain.png": ("PNG", {}),
    "plain.bmp": ("BMP", {}),
    "plain.gif": ("GIF", {}),
    "interlaced.gif": ("GIF", {"interlace": 1}),
    "plain.tif": ("TIFF", {}),
    "turned.tif": ("TIFF", {"exif": exif_of(6)}),
}
WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "lossy.webp": ("WEBP", {}),
    "lossless.webp": ("WEBP", {"lossless": True}),
    "a.avif": ("AVIF", {}),
    "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
}
ORIGINALS = {name: encoded(IMAGE, kind, **options) for name, (kind, options) in (PIECES | WHOLE).items()}


def read(folder: Path, name: str, content: bytes) -> Photo:
    path = folder / name
    path.write_bytes(content)
    return read_photo(path, SPEC if name != "turned.tif" else PixelSpec(128, 96))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Photo]:
    folder = tmp_path_factory.mktemp("whole")
    return {name: read(folder, name, content) for name, content in ORIGINALS.items()}


@pytest.mark.parametrize("end", [1, 2])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}, {"optimize": True}], ids=str)
def test_a_jpeg_without_its_end_marker_is_whole(options: dict[str, Any], end: int, tmp_path: Path) -> None:
    for image in (IMAGE, IMAGE.convert("L"), IMAGE.convert("CMYK"), Image.new("RGB", (16, 16), (128, 128, 128)), NOISE):
        content = jpeg(
            image, **{key: value for key, value in options.items() if image.mode != "L" or key != "subsampling"}
        )
        full, cut = (read(tmp_path, "a.jpg", part) for part in (content, content[:-end]))
        assert cut.damage is None and cut.note == "" and (cut.pixels == full.pixels).all()


def test_the_size_of_a_large_jpeg_without_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(smooth(1600, 1200))[:-2])
    assert photo_size(tmp_path / "a.jpg") == (1600, 1200)
    assert read_photo(tmp_path / "a.jpg", PixelSpec(48, 64)).damage is None


@pytest.mark.parametrize("name", PIECES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cut_at_any_byte(name: str, data: st.DataObject, whole: dict[str, Photo], tmp_path: Path) -> None:
    content = ORIGINALS[name]
    end = data.draw(st.integers(1, len(content) - 1))
    try:
        photo = read(tmp_path, name, content[:end])
    except UnreadableError as error:
        assert error.state == "corrupt" and str(error).isprintable()
        return
    if photo.damage is None:
        assert (photo.pixels == whole[name].pixels).all()
        return
    assert 0 < photo.damage.missing <= MOST_MISSING and not photo.damage.is_coarse
    is_grey = (photo.pixels == PAD_GREY).all(axis=-1)
    assert (photo.pixels == whole[name].pixels)[~is_grey].all()
    assert is_grey.mean() == pytest.approx(photo.damage.missing, abs=0.02)


@pytest.mark.parametrize("name", PIECES)
def test_every_state_occurs_and_less_is_never_more(name: str, tmp_path: Path) -> None:
    content = ORIGINALS[name]
    states: Counter[str] = Counter()
    shares = []
    for tenths in range(1, 100, 3):
        try:
            photo = read(tmp_path, name, content[: len(content) * tenths // 100])
            states["partial" if photo.damage else "ok"] += 1
            shares.append(photo.damage.missing if photo.damage else 0.0)
        except UnreadableError as error:
            states[error.state] += 1
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.7 and shares[-1] < 0.3
    assert states["partial"] > 15 and states["corrupt"] > 0


@pytest.mark.parametrize("name", WHOLE)
def test_formats_that_are_decoded_as_a_whole_are_corrupt(name: str, tmp_path: Path) -> None:
    content = ORIGINALS[name]
    for end in range(1, len(content) - 200, len(content) // 23):
        with pytest.raises(UnreadableError) as caught:
            read(tmp_path, name, content[:end])
        assert caught.value.state == "corrupt" and str(caught.value).isprintable()


def test_a_cut_avif_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="it is an AVIF photo that is cut or damaged"):
        read(tmp_path, "a.avif", ORIGINALS["a.avif"][:100])


def test_a_progressive_jpeg_lacks_detail_before_it_lacks_pixels(tmp_path: Path) -> None:
    content = jpeg(IMAGE, progressive=True)
    seen = []
    for end in range(len(content) // 10, len(content) - 3, 16):
        try:
            photo = read(tmp_path, "a.jpg", content[:end])
        except UnreadableError as error:
            assert error.state == "corrupt"
            continue
        assert photo.damage is not None and photo.damage.is_coarse
        assert "detail or colour is missing" in str(photo.damage)
        seen.append(photo.damage.missing)
    assert seen == sorted(seen, reverse=True) and seen[0] > 0 and seen.count(0.0) > len(seen) / 2


@pytest.mark.parametrize("fill", [b"\0", b"\xff"], ids=["zeros", "ones"])
def test_what_a_card_leaves_in_place_of_the_rest_is_no_picture(fill: bytes, tmp_path: Path) -> None:
    """Filler bytes in place of the missing data are not shown as picture content.

    A broken transfer leaves such bytes if it reserved the file's size beforehand.
    """
    content = ORIGINALS["baseline.jpg"]
    half = len(content) // 2
    cut, filled = (read(tmp_path, "a.jpg", content[:half] + rest) for rest in (b"", fill * (len(content) - half)))
    assert cut.damage is not None and filled.damage == cut.damage and (filled.pixels == cut.pixels).all()


def test_the_window_and_the_clip_tell(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(ORIGINALS["baseline.jpg"][: -len(ORIGINALS["baseline.jpg"]) // 3])
    _, window = read_frames(tmp_path / "a.jpg", SPEC, TimeSpec(3))
    assert isinstance(window, FrameWindow) and window.damage is not None and window.indices == (0, 0, 0)
    (clip,) = read_clips(tmp_path / "a.jpg", SPEC, None)
    assert clip.damage == window.damage
    assert str(clip.damage) == f"the file is cut: {clip.damage.missing:.0%} of the picture is missing and shown in grey"


def test_words_for_what_is_missing() -> None:
    assert str(Damage(missing=0.004)) == "the file is cut: less than 1% of the picture is missing and shown in grey"
    assert Damage(missing=0.2).with_later(Damage(missing=0.1, is_coarse=True)) == Damage(missing=0.2, is_coarse=True)


def test_large_photos_are_compared_band_by_band(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {
        name: ORIGINALS[name][: len(ORIGINALS[name]) * 2 // 3] for name in ("baseline.jpg", "plain.png", "plain.tif")
    }
    at_once = {name: read(tmp_path, name, content) for name, content in contents.items()}
    monkeypatch.setattr("vidrisk.frames.levels.BAND_PX", 100)
    for name, content in contents.items():
        photo = read(tmp_path, name, content)
        assert photo.damage == at_once[name].damage and (photo.pixels == at_once[name].pixels).all()


def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Threads that read damaged photos do not affect each other.

    Training reads photos in its own process, where a process-wide switch would change the results of other
    readers.
    """
    (tmp_path / "cut.jpg").write_bytes(ORIGINALS["baseline.jpg"][: -len(ORIGINALS["baseline.jpg"]) // 3])
    (tmp_path / "short.webp").write_bytes(ORIGINALS["lossy.webp"][:-100])
    expected = read_photo(tmp_path / "cut.jpg", SPEC)
    wrong: list[str] = []

    def work() -> None:
        for _ in range(30):
            photo = read_photo(tmp_path / "cut.jpg", SPEC)
            if photo.damage != expected.damage or not (photo.pixels == expected.pixels).all():
                wrong.append("cut.jpg")
            with suppress(UnreadableError):
                read_photo(tmp_path / "short.webp", SPEC)
                wrong.append("short.webp")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    for name, content in ORIGINALS.items():
        (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ORIGINALS:
        with suppress(UnreadableError):
            read_photo(tmp_path / name, SPEC)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
