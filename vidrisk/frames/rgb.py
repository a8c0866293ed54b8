"""Conversion of decoded frames to upright RGB arrays that are identical on every processor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideData, SideDataContainer, Type
from av.video.frame import VideoFrame

# FFmpeg's fast conversion to RGB rounds differently on x86 and on ARM, in most values and by up to 4 of 255; with
# ACCURATE_RND it does not. PyAV 17 accepts the flags only as a number: SWS_POINT | SWS_ACCURATE_RND.
SAME_EVERYWHERE = 0x10 | 0x40000
# "Unspecified" of matrix, transfer and primaries alike (ITU-T H.273).
UNSPECIFIED = 2
COLOUR_TAGS = {"colorspace": "matrix", "color_trc": "transfer", "color_primaries": "primaries"}
# ``VideoFrame.side_data`` keeps its container, which refers to the frame: such a frame stays in memory until Python
# collects reference cycles. A separate container has no cycle.
side_data_of = cast("Callable[[VideoFrame], Iterable[SideData]]", SideDataContainer)


def rgb_from_frame(frame: VideoFrame) -> tuple[npt.NDArray[np.uint8], str]:
    """Convert a frame; colour tags that FFmpeg's scaler does not know are dropped, one after another.

    Returns:
        Pixels ``uint8 (H, W, 3)`` as stored, and a note on the dropped tags; '' if there are none.

    Raises:
        av.FFmpegError: the frame cannot be converted even without its tags.
    """
    dropped: list[str] = []
    for name, word in (*COLOUR_TAGS.items(), ("", "")):
        try:
            rgb = np.asarray(frame.to_ndarray(format="rgb24", interpolation=SAME_EVERYWHERE, threads=1), np.uint8)
            break
        except (av.FFmpegError, ValueError):
            if not name:
                raise
            if getattr(frame, name) != UNSPECIFIED:
                dropped.append(f"{word} {getattr(frame, name)}")
                setattr(frame, name, UNSPECIFIED)
    return rgb, f"unknown colour tags were ignored: {', '.join(dropped)}" if dropped else ""


def upright(pixels: npt.NDArray[np.uint8], frame: VideoFrame) -> npt.NDArray[np.uint8]:
    """Apply a frame's display matrix to its pixels: the nearest of the eight orientations."""
    is_turned, flips_rows, flips_columns = orientation_of(frame)
    if is_turned:
        pixels = pixels.transpose(1, 0, 2)
    pixels = pixels[:: -1 if flips_rows else 1, :: -1 if flips_columns else 1]
    return np.ascontiguousarray(pixels)


def orientation_of(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Return the steps to make a frame upright: swap rows and columns, then reverse rows, reverse columns.

    The matrix maps a stored point (x, y) to (a x + c y, b x + d y) on the screen (ISO/IEC 14496-12, 8.5.3).
    """
    try:
        matrix = next((data for data in side_data_of(frame) if data.type == Type.DISPLAYMATRIX), None)
    except ValueError:  # side data of a kind unknown to PyAV: use the rotation alone
        turns = round(frame.rotation / 90) % 4  # counter-clockwise
        return turns % 2 == 1, turns in (1, 2), turns in (2, 3)
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(memoryview(matrix), np.int32)[:5].astype(np.float64).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, b < 0, c < 0
    return False, d < 0, a < 0
