"""Tests of headers that state a false picture size, and of frames that change size.

Pictures that are too large are refused before memory is allocated for them.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from numbered_clips import number_in_picture, write_clip
from odd_clips import avi_of_size, write_sizes
from odd_photos import grey_png, jpeg, jpeg_of_size, tiff

from vidrisk.frames import Clip, probe, read_clips
from vidrisk.runtimes.contract.errors import UnreadableError
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

SPEC = PixelSpec(48, 64)
ROOT = Path(__file__).parents[3]
# More than a decoder takes for a small picture, far less than one frame or photo of 100 Mpx.
MOST_MB = 120
_READ_ALL = """
import sys
from vidrisk.frames import read_clips
from vidrisk.runtimes.contract.errors import UnreadableError
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

def peak_kb():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

def state(path):
    try:
        return "partial" if [clip for clip in read_clips(path, PixelSpec(48, 64), TimeSpec(4)) if clip.damage] else "ok"
    except UnreadableError as error:
        return error.state

state(sys.argv[1])
before = peak_kb()
states = [state(path) for path in sys.argv[2:]]
print((peak_kb() - before) // 1024, *states)
"""


def states_and_peak_mb(small: Path, paths: Sequence[Path]) -> tuple[list[str], int]:
    """Return the ledger states of files and the additional peak memory in MB.

    A separate process reads the files. The peak is relative to the peak after reading ``small``.
    """
    command = [sys.executable, "-c", _READ_ALL, str(small), *map(str, paths)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60, env=environment)
    peak_mb, *states = run.stdout.split()
    return states, int(peak_mb)


def read_one(path: Path, moments: int) -> Clip:
    (clip,) = read_clips(path, SPEC, TimeSpec(moments))
    return clip


def numbers_in(clip: Clip) -> list[int]:
    return [number_in_picture(frame) for frame in clip.frames]


@pytest.mark.parametrize("stated", [(30_000, 30_000), (4, 4), (0, 0)])
@pytest.mark.parametrize(("codec", "pix_fmt"), [("mjpeg", "yuvj420p"), ("mpeg4", "yuv420p")])
def test_frames_count_not_the_size_that_a_header_states(
    tmp_path: Path, codec: str, pix_fmt: str, stated: tuple[int, int]
) -> None:
    path = write_clip(tmp_path / "a.avi", 20, codec=codec, pix_fmt=pix_fmt)
    path.write_bytes(avi_of_size(path.read_bytes(), *stated))
    assert numbers_in(read_one(path, 20)) == list(range(20))
    assert (probe(path).width, probe(path).height) == (64, 48)


@pytest.mark.parametrize("suffix", ["ts", "mkv"])
def test_frames_that_are_too_large_are_refused_before_they_are_decoded(tmp_path: Path, suffix: str) -> None:
    path = write_sizes(tmp_path / f"huge.{suffix}", (16_000, 16_000))
    with pytest.raises(UnreadableError, match="is 16000x16000 pixels, the limit is 100 million") as caught:
        read_one(path, 4)
    assert caught.value.state == "too_large"


@pytest.mark.parametrize("suffix", ["ts", "mkv"])
def test_frames_that_change_size_in_mid_stream(tmp_path: Path, suffix: str) -> None:
    path = write_sizes(tmp_path / f"changing.{suffix}", (64, 48), (128, 96), (64, 48), frames=16)
    clip = read_one(path, 48)
    assert clip.damage is None and clip.frames.shape == (48, 48, 64, 3)
    numbers = numbers_in(clip)
    assert numbers[:16] == numbers[32:] == list(range(16))


@pytest.mark.parametrize("suffix", ["ts", "mkv"])
def test_frames_that_become_too_large_cost_only_themselves(tmp_path: Path, suffix: str) -> None:
    clip = read_one(write_sizes(tmp_path / f"growing.{suffix}", (64, 48), (16_000, 16_000)), 8)
    assert clip.damage is not None and clip.damage.lost_s[0] >= 0.96 and numbers_in(clip)[:4] == [3, 9, 15, 21]


@pytest.mark.parametrize("size", [(30_000, 30_000), (0, 0)])
def test_jpeg_frames_of_a_false_size_are_corrupt(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_clip(tmp_path / "a.avi", 20, codec="mjpeg", pix_fmt="yuvj420p")
    start = b"\xff\xc0\0\x11\x08"
    path.write_bytes(path.read_bytes().replace(start + struct.pack(">HH", 48, 64), start + struct.pack(">HH", *size)))
    with pytest.raises(UnreadableError, match="no frame can be decoded") as caught:
        read_one(path, 4)
    assert caught.value.state == "corrupt"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_nothing_large_is_allocated_before_a_refusal(tmp_path: Path) -> None:
    small = write_clip(tmp_path / "small.mp4", 20)
    huge = [write_sizes(tmp_path / f"huge.{suffix}", (16_000, 16_000), frames=4) for suffix in ("ts", "mkv")]
    photos = {
        "real.png": grey_png(16_000, 16_000),
        "stated.png": grey_png(16_000, 16_000, whole=False),
        "stated.jpg": jpeg_of_size(jpeg(), 16_000, 16_000),
        "tiles.tif": tiff({322: 30_000, 323: 30_000}),
    }
    for name, content in photos.items():
        (tmp_path / name).write_bytes(content)
    states, peak_mb = states_and_peak_mb(small, [*huge, *(tmp_path / name for name in photos)])
    assert states == ["too_large"] * 6 and peak_mb < MOST_MB
