"""What a process says about an input is taken as a hostile file might have it said."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.frames.media import MAX_DURATION_S
from vidrisk.report.process import Wish, thumbnails_from_message
from vidrisk.report.thumbnails import MAX_SIDE_PX, Thumbnail

PHOTO = Wish("/p.png", (0.0,), 500)
CLIP = Wish("/v.mp4", (0.0, 1.5), 500)
WEBP = base64.b64encode(b"RIFF____WEBP").decode()
PICTURE = Thumbnail(WEBP, 16, 9, None)
MOMENTS = [replace(PICTURE, time_s=0.0), replace(PICTURE, time_s=1.48)]

texts = st.sampled_from([WEBP, "", '"><script>', base64.b64encode(b"<svg>").decode()]) | st.text(max_size=5)
values = st.none() | st.booleans() | st.integers() | st.floats() | texts
anything = st.recursive(values, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=2),
                        max_leaves=12)
pictures = st.tuples(texts, values, values, values).map(list)


def message(*thumbnails: Thumbnail) -> dict[str, Any]:
    return {"thumbnails": [[t.webp, t.width, t.height, t.time_s] for t in thumbnails]}


def test_answers() -> None:
    assert thumbnails_from_message(message(PICTURE), PHOTO) == (PICTURE,)
    assert thumbnails_from_message(message(*MOMENTS), CLIP) == tuple(MOMENTS)
    assert thumbnails_from_message(message(), CLIP) == ()


@pytest.mark.parametrize("change", [
    {"webp": '"><script>'}, {"webp": 7}, {"webp": ""}, {"webp": base64.b64encode(b"<svg>").decode()},
    {"webp": base64.b64encode(b"RIFF____WEBP" * 50).decode()}, {"width": 0}, {"height": 9.5}, {"width": 10**9},
    {"height": '9"><script>'}, {"height": True}, {"time_s": 1.0},
], ids=str)
def test_one_wrong_thing_is_enough(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        thumbnails_from_message(message(replace(PICTURE, **change)), PHOTO)


@pytest.mark.parametrize("time_s", [None, "1", float("nan"), 1e300, -1.0, [1]], ids=str)
def test_a_clip_has_times_that_can_be(time_s: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        thumbnails_from_message(message(MOMENTS[0], replace(PICTURE, time_s=time_s)), CLIP)


@pytest.mark.parametrize("shown", [1, 3])
def test_there_is_one_for_every_moment(shown: int) -> None:
    with pytest.raises(ValueError, match="for 2 moments"):
        thumbnails_from_message(message(*(MOMENTS * 2)[:shown]), CLIP)


@given(anything | st.fixed_dictionaries({"thumbnails": anything | st.lists(pictures, max_size=3)}), st.sampled_from([PHOTO, CLIP]))
def test_whatever_it_says_is_refused_or_harmless(said: Any, wish: Wish) -> None:
    try:
        thumbnails = thumbnails_from_message(said, wish)
    except (ValueError, TypeError, KeyError):
        return
    assert len(thumbnails) in (0, len(wish.moments_s))
    for thumbnail in thumbnails:
        assert re.fullmatch("[A-Za-z0-9+/=]*", thumbnail.webp)
        assert type(thumbnail.width) is int and type(thumbnail.height) is int
        assert 0 < thumbnail.width <= MAX_SIDE_PX and 0 < thumbnail.height <= MAX_SIDE_PX
        assert (thumbnail.time_s is None) == (wish is PHOTO) and 0 <= (thumbnail.time_s or 0) <= MAX_DURATION_S
