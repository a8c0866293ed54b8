"""Tests of JPEGs of photos, from files and from bytes without a file.

The workers that read them may crash, hang and send false messages.
"""

from __future__ import annotations

import base64
import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_media import write_photo, write_video

from vidrisk.decode import pool
from vidrisk.decode.jpegs import PIECE_BYTES, Jpeg, jpeg_from_photo, most_bytes
from vidrisk.decode.messages import InputEnd, PhotoInput, PhotoSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.decode.reading import Reading, Starved, item_from_message
from vidrisk.decode.session import Limits

PHOTO = PhotoInput(0, "a.jpg")
SMALL = PhotoSettings(64, 48)
UNREADABLE = (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError)
# What every Python process runs at its start: the workers are the real ones, and so are the ways in which they end.
FAULTY = """
import ctypes, os, pathlib, sys, time

if "vidrisk.decode.worker" in pathlib.Path("/proc/self/cmdline").read_text():
    import vidrisk.decode.read_input as worker

    jpeg_from_photo = worker.jpeg_from_photo

    def faulty(path, *arguments):
        content = path.read_bytes()
        if content.startswith(b"segfault"):
            ctypes.string_at(0)
        if content.startswith(b"hang"):
            time.sleep(1000)
        if content.startswith(b"lies"):
            os.write(int(sys.argv[1]), b'{"jpeg": [1, 1]}\\n')
            time.sleep(1000)
        if content.startswith(b"open"):
            open(content[4:].decode()).read()
        return jpeg_from_photo(path, *arguments)

    worker.jpeg_from_photo = faulty
"""


def noise(side: tuple[int, int] = (90, 60)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (side[1], side[0], 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_files_and_bytes_give_the_same_in_the_order_of_the_requests(tmp_path: Path) -> None:
    content = noise()
    (tmp_path / "a.png").write_bytes(content)
    video = write_video(tmp_path / "c.mp4", ("red",))
    requests = [
        PhotoInput(7, str(tmp_path / "a.png")),
        PhotoInput(7, "", b"junk"),
        PhotoInput(7, "name", content),
        PhotoInput(7, str(tmp_path / "gone.png")),
        PhotoInput(7, video),
        PhotoInput(7, "", b""),
    ]
    with DecodePool(2) as opened:
        found = opened.jpegs([*requests, *(PhotoInput(0, "", noise((20 + n, 20))) for n in range(40))], SMALL)
    expected, _, _ = jpeg_from_photo(tmp_path / "a.png", 64, 48, 85)
    assert [jpeg for jpeg, _ in found[:6]] == [expected, None, expected, None, None, None]
    assert [jpeg and jpeg.width for jpeg, _ in found[6:]] == [20 + n for n in range(40)]
    reasons = [end.reason for jpeg, end in found if not jpeg]
    assert len(reasons) == 4 and all(any(word in reason for word in ("photo", "exist", "video")) for reason in reasons)


@pytest.mark.parametrize(
    ("side", "shown"), [((640, 480), (64, 48)), ((10, 10), (10, 10)), ((200, 20), (64, 6)), ((3000, 1), (64, 1))]
)
def test_photos_fit_into_the_box_and_are_not_enlarged(
    tmp_path: Path, side: tuple[int, int], shown: tuple[int, int]
) -> None:
    (tmp_path / "a.png").write_bytes(noise(side))
    jpeg, note, is_damaged = jpeg_from_photo(tmp_path / "a.png", 64, 48, 85)
    with Image.open(io.BytesIO(jpeg.data)) as image:
        assert (jpeg.width, jpeg.height) == image.size == shown and (note, is_damaged) == ("", False)


def test_nothing_but_pixels_is_carried_over(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    with Image.open(io.BytesIO(noise())) as image:
        image.save(tmp_path / "a.jpg", exif=exif, comment="secret place")
    assert b"secret" in (tmp_path / "a.jpg").read_bytes()
    assert b"secret" not in jpeg_from_photo(tmp_path / "a.jpg", 64, 48, 100)[0].data


def test_a_large_photo_comes_in_pieces(tmp_path: Path) -> None:
    with DecodePool(1) as opened:
        ((jpeg, end),) = opened.jpegs([PhotoInput(0, "", noise((1000, 800)))], PhotoSettings(1000, 800, 100))
    assert end.state == "ok" and jpeg and len(jpeg.data) > 2 * PIECE_BYTES
    with Image.open(io.BytesIO(jpeg.data)) as image:
        image.load()


def test_a_worker_that_a_photo_breaks_takes_that_photo_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAULTY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.fspath(tmp_path), *sys.path]))
    monkeypatch.setattr(pool, "PHOTO_LIMITS", Limits(silence_s=1.0, input_s=2.0))
    (tmp_path / "secret.txt").write_text("secret")
    photo = write_photo(tmp_path / "a.png", "red")
    contents = [noise(), b"segfault", b"hang", b"lies", f"open{tmp_path / 'secret.txt'}".encode(), noise()]
    with DecodePool(2) as opened:
        found = opened.jpegs([*(PhotoInput(0, "", content) for content in contents), PhotoInput(0, photo)], SMALL)
    assert [jpeg is not None for jpeg, _ in found] == [True, False, False, False, False, True, True]
    assert [end.state for _, end in found[1:4]] == ["crashed", "timeout", "crashed"]
    assert sys.platform != "linux" or "Permission denied" in found[4][1].reason


def said(*messages: dict[str, Any], settings: PhotoSettings = SMALL) -> list[Any]:
    reading = Reading(None, None)
    return [
        item_from_message(PHOTO, settings, None, reading, kind, value)
        for message in messages
        for kind, value in message.items()
    ]


PIECE = {"piece": base64.b64encode(b"\xff\xd8\xffabc\xff\xd9").decode()}


def test_pieces_become_a_picture() -> None:
    assert said(PIECE, {"jpeg": [64, 48]}, {"end": ["ok", "", 0.0, "", ""]})[1] == (
        Jpeg(b"\xff\xd8\xffabc\xff\xd9", 64, 48),
        None,
    )


@pytest.mark.parametrize(
    "messages",
    [
        [{"jpeg": [64, 48]}],
        [PIECE, {"jpeg": [65, 48]}],
        [PIECE, {"jpeg": [0, 48]}],
        [PIECE, {"jpeg": [True, 48]}],
        [PIECE, {"jpeg": "64"}],
        [{"piece": base64.b64encode(b"GIF89a").decode()}, {"jpeg": [1, 1]}],
        [{"piece": "!"}],
        [{"piece": ""}],
        [{"piece": None}],
        [{"piece": base64.b64encode(bytes(PIECE_BYTES + 1)).decode()}],
        [PIECE, {"jpeg": [1, 1]}, PIECE],
        [{"frame": [0, 0.0]}],
        [{"thumbnail": ["", 1, 1, None]}],
        [{"alive": True}],
        [{"piece": base64.b64encode(bytes(most_bytes(64, 48) // 2 + 1)).decode()}] * 2,
    ],
)
def test_what_no_worker_of_ours_says_is_refused(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(UNREADABLE):
        said(*messages)


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70) | st.text(max_size=4), lambda inner: st.lists(inner, max_size=3)
)


@given(
    st.lists(
        st.builds(
            lambda kind, value: {kind: value},
            st.sampled_from(["piece", "jpeg", "end", "alive", "frame"]),
            anything | st.just(PIECE["piece"]) | st.tuples(st.integers(0, 70), st.integers(0, 70)),
        ),
        max_size=5,
    )
)
def test_whatever_it_says_is_refused_or_sound(messages: list[dict[str, Any]]) -> None:
    try:
        items = said(*messages)
    except (*UNREADABLE, Starved):
        return
    for item in items:
        assert (
            item is None
            or isinstance(item[0], InputEnd)
            or (item[0].width <= 64 and item[0].data.startswith(b"\xff\xd8\xff"))
        )
