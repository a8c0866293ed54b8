"""Tests of frame times and grey levels: a short part of ``benchmarks/clocks.py``.

One file of every kind is read. The time and grey level of each frame are compared with ffprobe and ffmpeg.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from clock_check import difference
from clock_files import FILES
from ffmpeg_program import needs_ffmpeg

SHORT = (
    "x264-open.ts",
    "x264.avi",
    "mpeg2.mpg",
    "fields-each-in-pes.ts",
    "fields-each-in-sample.mp4",
    "fields-pair-in-pes.mpg",
    "uneven.mkv",
    "pause.mpg",
    "second-half.mp4",
    "wraps.ts",
    "pairs.flv",
    "one-shared-b.mkv",
    "no-durations.mp4",
    "back-once-b.ts",
    "ahead-once.mkv",
    "five-in-pes-pause.ts",
    "every-third-b.mpg",
    "rate-100.mpg",
    "cut-start-b.ts",
)


@needs_ffmpeg
@pytest.mark.parametrize("name", SHORT)
def test_times_and_frames_equal_those_of_ffmpeg(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    FILES[name](path)
    found = difference(path)
    assert found.is_right, found


def test_the_matrix_is_large_enough() -> None:
    assert len(FILES) >= 60 and set(SHORT) <= set(FILES)
