"""Tests of a worker's messages about thumbnails, which are treated as if a hostile file had written them."""

from __future__ import annotations

import base64
import re
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_media import write_photo, write_video

from vidrisk.decode.messages import ThumbnailInput
from vidrisk.decode.pool import whole_thumbnails
from vidrisk.decode.thumbnails import MAX_SIDE_PX, Thumbnail, thumbnail_from_values
from vidrisk.frames.media import MAX_DURATION_S

MAX_BYTES = 500
WEBP = base64.b64encode(b"RIFF____WEBP").decode()
PICTURE = Thumbnail(WEBP, 16, 9, None)
MOMENTS = (replace(PICTURE, time_s=0.0), replace(PICTURE, time_s=1.48))

texts = st.sampled_from([WEBP, "", '"><script>', base64.b64encode(b"<svg>").decode()]) | st.text(max_size=5)
values = st.none() | st.booleans() | st.integers() | st.floats() | texts
anything = st.recursive(
    values, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=2), max_leaves=12
)
pictures = st.tuples(texts, values, values, values).map(list)


@pytest.mark.parametrize("thumbnail", [PICTURE, *MOMENTS], ids=str)
def test_thumbnails(thumbnail: Thumbnail) -> None:
    assert thumbnail_from_values(astuple(thumbnail), MAX_BYTES) == thumbnail


@pytest.mark.parametrize(
    "change",
    [
        {"webp": '"><script>'},
        {"webp": 7},
        {"webp": ""},
        {"webp": base64.b64encode(b"<svg>").decode()},
        {"webp": base64.b64encode(b"RIFF____WEBP" * 50).decode()},
        {"width": 0},
        {"height": 9.5},
        {"width": 10**9},
        {"height": '9"><script>'},
        {"height": True},
        {"time_s": "1"},
        {"time_s": float("nan")},
        {"time_s": 1e300},
        {"time_s": -1.0},
        {"time_s": [1]},
    ],
    ids=str,
)
def test_one_wrong_thing_is_enough(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        thumbnail_from_values(astuple(replace(PICTURE, **change)), MAX_BYTES)


def test_an_input_has_a_thumbnail_for_every_moment_or_none(tmp_path: Path) -> None:
    photo = ThumbnailInput(0, write_photo(tmp_path / "a.png"), (0.0,), MAX_BYTES)
    clip = ThumbnailInput(1, write_video(tmp_path / "a.mp4"), (0.0, 1.5), MAX_BYTES)
    assert whole_thumbnails(photo, [PICTURE]) == (PICTURE,) and whole_thumbnails(clip, MOMENTS) == MOMENTS
    for found in ((), MOMENTS[:1], (*MOMENTS, MOMENTS[1]), (MOMENTS[0], PICTURE)):
        assert whole_thumbnails(clip, found) == ()
    assert whole_thumbnails(photo, MOMENTS[:1]) == ()


@given(anything | pictures)
def test_whatever_it_says_is_refused_or_harmless(said: Any) -> None:
    try:
        thumbnail = thumbnail_from_values(said, MAX_BYTES)
    except (ValueError, TypeError, KeyError):
        return
    assert re.fullmatch("[A-Za-z0-9+/=]*", thumbnail.webp) and thumbnail.bytes <= MAX_BYTES
    assert type(thumbnail.width) is int and type(thumbnail.height) is int
    assert 0 < thumbnail.width <= MAX_SIDE_PX and 0 < thumbnail.height <= MAX_SIDE_PX
    assert thumbnail.time_s is None or 0 <= thumbnail.time_s <= MAX_DURATION_S
