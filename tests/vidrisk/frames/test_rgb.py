"""Tests of colour tags that FFmpeg's scaler does not know, and of the eight orientations of a display matrix."""

from __future__ import annotations

import gc
import itertools
import struct
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from ffmpeg_program import needs_ffmpeg, output_of
from numbered_clips import write_clip
from odd_clips import mp4_with_matrix

from vidrisk.frames import Decoder, FrameWindow, probe, read_clips, read_frames
from vidrisk.frames.rgb import UNSPECIFIED, rgb_from_frame, upright
from vidrisk.runtimes.contract.errors import is_installed
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

DECODERS: tuple[Decoder, ...] = ("pyav", "decord") if is_installed("decord") else ("pyav",)
# (a, b, c, d): identity, flips, half turn; transposed and with flips
ORIENTATIONS = [*itertools.product((1, -1), (0,), (0,), (1, -1)), *itertools.product((0,), (1, -1), (1, -1), (0,))]


def patterned() -> npt.NDArray[np.uint8]:
    """Return a picture of four quarters in different greys, so that no two orientations look alike."""
    picture = np.full((48, 64, 3), 40, np.uint8)
    picture[:24, 32:], picture[24:, :32], picture[24:, 32:] = 100, 160, 220
    return picture


def write_pattern(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(patterned(), "rgb24")))
        container.mux(stream.encode())
    return path


def shown_by(matrix: tuple[int, int, int, int], picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Move every pixel to the position that ISO/IEC 14496-12 specifies for ``matrix``."""
    a, b, c, d = matrix
    y, x = np.indices(picture.shape[:2])
    across, down = a * x + c * y, b * x + d * y
    across, down = across - across.min(), down - down.min()
    out = np.empty((down.max() + 1, across.max() + 1, 3), np.uint8)
    out[down, across] = picture
    return out


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_every_orientation(tmp_path: Path, matrix: tuple[int, int, int, int], decoder: Decoder) -> None:
    path = write_pattern(tmp_path / "a.mp4")
    path.write_bytes(mp4_with_matrix(path.read_bytes(), matrix))
    expected = shown_by(matrix, patterned())
    height, width = expected.shape[:2]
    (clip,) = read_clips(path, PixelSpec(height, width), TimeSpec(1), decoder=decoder)
    assert np.abs(clip.frames[0].astype(int) - expected).max() < 12
    assert (probe(path).width, probe(path).height) == (width, height)


@needs_ffmpeg
@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_orientations_equal_those_of_ffmpeg(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    path = write_pattern(tmp_path / "a.mp4")
    path.write_bytes(mp4_with_matrix(path.read_bytes(), matrix))
    raw = output_of(
        "ffmpeg", "-v", "error", "-i", str(path), "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"
    )
    height, width = (64, 48) if matrix[0] == 0 else (48, 64)
    (clip,) = read_clips(path, PixelSpec(height, width), TimeSpec(1))
    assert np.abs(np.frombuffer(raw, np.uint8).reshape(height, width, 3).astype(int) - clip.frames[0]).max() < 6


def test_a_turn_that_is_no_quarter_is_the_nearest_one(tmp_path: Path) -> None:
    path = write_pattern(tmp_path / "a.mp4")
    content = path.read_bytes()
    place = content.index(b"tkhd") + 4 + 40
    slanted = struct.pack(">5i", 11_000, 64_000, 0, -64_000, 11_000)  # 80 degrees
    path.write_bytes(content[:place] + slanted + content[place + 20 :])
    (clip,) = read_clips(path, PixelSpec(64, 48), TimeSpec(1))
    assert np.abs(clip.frames[0].astype(int) - shown_by((0, 1, -1, 0), patterned())).max() < 12


def decoded_frame(tmp_path: Path) -> av.VideoFrame:
    with av.open(str(write_pattern(tmp_path / "a.mp4"))) as container:
        return next(container.decode(video=0))


@pytest.mark.parametrize("name", ["colorspace", "color_trc", "color_primaries"])
def test_every_colour_tag_can_be_read(tmp_path: Path, name: str) -> None:
    plain, note = rgb_from_frame(decoded_frame(tmp_path))
    assert note == ""
    for tag in (*range(1, 19), 22, 64, 255):
        frame = decoded_frame(tmp_path)
        setattr(frame, name, tag)
        rgb, note = rgb_from_frame(frame)
        assert rgb.shape == plain.shape
        if note:
            word = {"colorspace": "matrix", "color_trc": "transfer", "color_primaries": "primaries"}[name]
            assert note == f"unknown colour tags were ignored: {word} {tag}" and (rgb == plain).all()


def test_several_tags_at_once(tmp_path: Path) -> None:
    frame = decoded_frame(tmp_path)
    frame.colorspace, frame.color_trc, frame.color_primaries = 8, UNSPECIFIED, 1
    assert rgb_from_frame(frame)[1].endswith("ignored: matrix 8")


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_ledger_says_which_tag_was_ignored(tmp_path: Path, decoder: Decoder) -> None:
    path = write_clip(tmp_path / "ycgco.mp4", 10, options={"x264-params": "colormatrix=YCgCo"})
    plain = write_clip(tmp_path / "plain.mp4", 10)
    window = [
        item
        for item in read_frames(path, PixelSpec(48, 64), TimeSpec(4), decoder=decoder)
        if isinstance(item, FrameWindow)
    ]
    assert window[0].note == "unknown colour tags were ignored: matrix 8" and window[0].damage is None
    (clip,), (other,) = (read_clips(each, PixelSpec(48, 64), TimeSpec(4)) for each in (path, plain))
    assert np.abs(clip.frames.astype(int) - other.frames).max() <= 2


def test_a_frame_is_freed_without_a_collection_of_cycles() -> None:
    """Looking up the display matrix leaves no reference cycle, in which decoded frames would pile up."""
    frame = av.VideoFrame(64, 48, "rgb24")
    gc.collect()
    gc.disable()
    try:
        upright(np.zeros((48, 64, 3), np.uint8), frame)
        del frame
        assert gc.collect() == 0
    finally:
        gc.enable()
