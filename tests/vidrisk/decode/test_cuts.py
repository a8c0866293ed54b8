"""Tests of parts of photos, read by workers that may crash, hang and send false messages."""

from __future__ import annotations

import base64
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_media import write_video

from vidrisk.decode import pool
from vidrisk.decode.cuts import Cut, cuts_from_photo, edges_from_box
from vidrisk.decode.messages import CutInput, CutSettings, InputEnd, settings_from_json
from vidrisk.decode.pool import DecodePool
from vidrisk.decode.reading import Reading, item_from_message
from vidrisk.decode.session import Limits

UNREADABLE = (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError)
FAULTY = """
import ctypes, os, pathlib, sys, time

if "vidrisk.decode.worker" in pathlib.Path("/proc/self/cmdline").read_text():
    import vidrisk.decode.read_input as worker

    cuts_from_photo = worker.cuts_from_photo

    def faulty(path, *arguments):
        for item in cuts_from_photo(path, *arguments):
            yield item
            if "segfault" in path.name:
                ctypes.string_at(0)
            if "lies" in path.name:
                os.write(int(sys.argv[1]), b'{"cut": [0, 1, 1]}\\n')
                time.sleep(1000)

    worker.cuts_from_photo = faulty
"""


def photo(path: Path, side: tuple[int, int] = (90, 60), **options: Any) -> npt.NDArray[np.uint8]:
    """Write a photo of noise, and return its pixels."""
    pixels = np.random.default_rng(0).integers(0, 255, (side[1], side[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def pixels_of(cut: Cut) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(cut.data)) as image:
        assert image.format == "PNG" and image.mode == "RGB" and image.size == (cut.width, cut.height)
        return np.asarray(image)


def parts_of(found: list[Any]) -> list[Cut]:
    return [read.item for read in found if isinstance(read.item, Cut)]


def test_parts_have_the_very_pixels_of_the_photo_in_the_order_of_the_boxes(tmp_path: Path) -> None:
    pixels = photo(tmp_path / "a.png")
    boxes = ((10.0, 20.0, 30.0, 8.0), (80.0, 50.0, 500.0, 500.0), (0.0, 0.0, 90.0, 60.0), (-5.0, -5.0, 6.0, 7.0))
    with DecodePool(1) as opened:
        found = list(opened.cuts([CutInput(3, str(tmp_path / "a.png"), boxes)], CutSettings()))
    parts = parts_of(found)
    assert [part.place for part in parts] == [0, 1, 2, 3] and {read.id for read in found} == {3}
    for part, expected in zip(parts, (pixels[20:28, 10:40], pixels[50:, 80:], pixels, pixels[:2, :1]), strict=True):
        assert np.array_equal(pixels_of(part), expected)
    assert isinstance(found[-1].item, InputEnd) and found[-1].item.state == "ok"


def test_a_photo_that_lies_on_its_side_is_turned_first(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = photo(tmp_path / "a.png", exif=exif)
    parts = [
        item for item in cuts_from_photo(tmp_path / "a.png", [(0.0, 0.0, 60.0, 5.0)], 4096) if isinstance(item, Cut)
    ]
    assert np.array_equal(pixels_of(parts[0]), np.rot90(pixels, -1)[:5])


def test_what_is_no_photo_has_no_parts_and_large_parts_are_scaled_down(tmp_path: Path) -> None:
    photo(tmp_path / "wide.png", (400, 20))
    (tmp_path / "junk.png").write_bytes(b"junk")
    video = write_video(tmp_path / "c.mp4", ("red",))
    box = ((0.0, 0.0, 400.0, 20.0),)
    paths = [str(tmp_path / "wide.png"), str(tmp_path / "junk.png"), str(tmp_path / "gone.png"), video]
    with DecodePool(1) as opened:
        found = list(
            opened.cuts([CutInput(number, path, box) for number, path in enumerate(paths)], CutSettings(max_side=100))
        )
    (part,) = parts_of(found)
    assert (part.width, part.height) == (100, 5)
    assert {read.id: read.item.state for read in found if isinstance(read.item, InputEnd)} == {
        0: "ok",
        1: "corrupt",
        2: "skipped",
        3: "skipped",
    }


@pytest.mark.parametrize(
    ("box", "edges"),
    [
        ((0.5, 0.5, 1.0, 1.0), (0, 0, 2, 2)),
        ((30.0000001, 0, 9.9999999, 1), (30, 0, 40, 1)),
        ((29.9999999, 0, 10, 1), (30, 0, 40, 1)),
        ((90, 0, 5, 5), None),
        ((0, 0, 0, 5), None),
        ((5, 5, -3, 3), None),
        ((float("nan"), 0, 1, 1), None),
        ((0, 0, float("inf"), 1), None),
        ((1e308, 0, 1e308, 1), None),
        ((-1e300, 0, 1e301, 1), (0, 0, 90, 1)),
    ],
)
def test_every_pixel_that_a_box_touches_is_in_its_part(box: Any, edges: Any) -> None:
    assert edges_from_box(box, 90, 60) == edges


def test_a_worker_that_a_photo_breaks_takes_that_photo_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAULTY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.fspath(tmp_path), *sys.path]))
    monkeypatch.setattr(pool, "CUT_LIMITS", Limits(silence_s=1.0, input_s=5.0))
    names = ("segfault.png", "good.png", "lies.png")
    for name in names:
        photo(tmp_path / name)
    boxes = ((0.0, 0.0, 5.0, 5.0), (1.0, 1.0, 5.0, 5.0))
    requests = [CutInput(number, str(tmp_path / name), boxes) for number, name in enumerate(names)]
    with DecodePool(1) as opened:
        found = list(opened.cuts(requests, CutSettings()))
    assert {read.id: read.item.state for read in found if isinstance(read.item, InputEnd)} == {
        0: "crashed",
        1: "ok",
        2: "crashed",
    }


def test_settings_are_told_from_others() -> None:
    assert settings_from_json(CutSettings(7, 9).to_json()) == CutSettings(7, 9)


REQUEST = CutInput(0, "a.png", ((0.0, 0.0, 9.0, 9.0), (1.0, 1.0, 2.0, 2.0)))


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def said(*messages: dict[str, Any]) -> list[Any]:
    reading = Reading(None, None)
    return [
        item_from_message(REQUEST, CutSettings(max_side=16), None, reading, kind, value)
        for message in messages
        for kind, value in json.loads(json.dumps(message)).items()
    ]


def piece(data: bytes) -> dict[str, Any]:
    return {"piece": base64.b64encode(data).decode()}


FIRST = (piece(png(9, 9)), {"cut": [0, 9, 9]})


def test_what_a_worker_says_is_let_through() -> None:
    second = png(2, 2)
    found = said(*FIRST, piece(second[:20]), piece(second[20:]), {"cut": [1, 2, 2]})
    assert [item[0].place for item in found if item] == [0, 1]
    assert said(piece(second), {"cut": [1, 2, 2]})[1][0].data == second  # the first has no area


@pytest.mark.parametrize(
    "messages",
    [
        [*FIRST, *FIRST],
        [*FIRST, piece(png(2, 2)), {"cut": [2, 2, 2]}],
        [FIRST[0], {"cut": [0, 9, 8]}],
        [FIRST[0], {"cut": [-1, 9, 9]}],
        [piece(png(17, 2)), {"cut": [0, 17, 2]}],
        [piece(png(9, 9)[:-1]), {"cut": [0, 9, 9]}],
        [{"cut": [0, 9, 9]}],
        [piece(png(9, 9)[:12]), {"cut": [0, 9, 9]}],
        [piece(b"\xff\xd8\xff\xd9"), {"jpeg": [1, 1]}],
        [{"cut": [True, 9, 9]}],
        [piece(b"a" * 400_000)],
        [piece(png(9, 9)[:40] + b"a" * 66_000 + png(9, 9)[-8:]), {"cut": [0, 9, 9]}],
        [{"thumbnail": ["", 1, 1, None]}],
    ],
    ids=lambda messages: repr(messages)[-60:],
)
def test_what_no_worker_of_ours_says_is_refused(messages: list[dict[str, Any]]) -> None:
    said(*messages[:-1])
    with pytest.raises(UNREADABLE):
        said(*messages)


def test_a_worker_does_not_begin_anew_what_has_come() -> None:
    reading = Reading(None, None)
    for message in FIRST:
        for kind, value in message.items():
            item_from_message(REQUEST, CutSettings(), None, reading, kind, value)
    with pytest.raises(ValueError, match="begun"):
        reading.again(1, 1)


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 20) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)


@given(
    st.lists(
        st.tuples(st.sampled_from(["piece", "cut", "end"]), anything | st.just(FIRST[0]["piece"]) | st.just([0, 9, 9])),
        max_size=6,
    )
)
def test_anything_else_is_refused_and_nothing_breaks(messages: list[tuple[str, Any]]) -> None:
    reading = Reading(None, None)
    for kind, value in messages:
        try:
            item_from_message(REQUEST, CutSettings(max_side=16), None, reading, kind, value)
        except UNREADABLE:
            return
