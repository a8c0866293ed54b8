"""From a path to clips: which decoder, which moments, and every failure as one ``UnreadableError``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from vidrisk.frames.clip import Clip, MediaInfo
from vidrisk.frames.geometry import pixels_from_image
from vidrisk.frames.media import check_file, is_image, name_of
from vidrisk.frames.photos import photo_size, pixels_from_photo
from vidrisk.frames.sampling import TOLERANCE_S, Window, indices_from_moments, windows_from_duration
from vidrisk.frames.source import Timeline, VideoSource
from vidrisk.frames.video_decord import DecordSource
from vidrisk.frames.video_pyav import PyAVSource
from vidrisk.runtimes.errors import SettingsError, UnreadableError, VidriskError
from vidrisk.runtimes.specs import PixelSpec, TimeSpec

Decoder = Literal["auto", "pyav", "decord"]
MIDDLE_FRAME = TimeSpec(frames=1)


def read_clips(path: str | Path, pixel: PixelSpec, time: TimeSpec | None, *,
               decoder: Decoder = "auto") -> Iterator[Clip]:
    """Read a photo or a video as the specs say. Nothing is opened before the first clip is asked for.

    A photo gives one clip, its picture repeated ``time.frames`` times (once when ``time`` is None). A video gives one
    clip, or one per window (see ``sampling.windows_from_duration`` for which); with ``time`` None, its middle frame. A
    frame is decoded once however many windows show it, and no more are held than the windows in progress need.

    Args:
        decoder: ``auto`` is ``pyav``; ``decord`` needs the extra of that name.

    Raises:
        UnreadableError: the file cannot be read; ``state`` says whether it is corrupt, too_large, or skipped (missing,
            not permitted, no picture in it).
        SettingsError: another decoder.
        MissingExtra: decord is asked for and not installed.
    """
    path = Path(path)
    if decoder not in get_args(Decoder):
        raise SettingsError(f"decoder {decoder!r}", allowed=", ".join(get_args(Decoder)))
    check_file(path)
    if is_image(path):
        yield _clip_from_photo(path, pixel, time)
        return
    with _translated(path), _opened(path, decoder) as source:
        yield from _clips_from_video(source, path, pixel, time or MIDDLE_FRAME)


def probe(path: str | Path) -> MediaInfo:
    """What a file holds. A video's first frame is decoded, so a file that passes can be read.

    Raises:
        UnreadableError: as ``read_clips``.
    """
    path = Path(path)
    check_file(path)
    if is_image(path):
        width, height = photo_size(path)
        return MediaInfo("image", width, height, None, 1, None)
    with _translated(path), PyAVSource(path) as source:
        timeline = source.timeline
        height, width = next(source.frames_at([0])).rgb.shape[:2]
        frames = len(timeline.times_s)
        return MediaInfo("video", width, height, timeline.duration_s, frames, frames / timeline.readable_s)


def _opened(path: Path, decoder: Decoder) -> VideoSource:
    return DecordSource(path) if decoder == "decord" else PyAVSource(path)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """The seam where the decoders' exceptions become ours."""
    try:
        yield
    except VidriskError:
        raise
    except MemoryError as error:
        raise UnreadableError(f"{name_of(path)} does not fit into memory", state="too_large") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableError(f"{name_of(path)} cannot be decoded: {reason}") from error


def _clip_from_photo(path: Path, pixel: PixelSpec, time: TimeSpec | None) -> Clip:
    frames = np.repeat(pixels_from_photo(path, pixel)[None], time.frames if time else 1, axis=0)
    return Clip(frames, np.zeros(len(frames), np.float64), None, None, str(path))


@dataclass(frozen=True, eq=False)
class _Ready:
    """A frame in the model's size, kept until no window needs it any more."""

    pixels: npt.NDArray[np.uint8]
    time_s: float
    lost: bool


def _clips_from_video(source: VideoSource, path: Path, pixel: PixelSpec, time: TimeSpec) -> Iterator[Clip]:
    timeline = source.timeline
    windows = list(windows_from_duration(timeline.duration_s, time))
    indices = [indices_from_moments(window.moments_s, timeline.times_s).tolist() for window in windows]
    decoded = source.frames_at(sorted({index for of_window in indices for index in of_window}))
    ready: dict[int, _Ready] = {}
    for window, needed in zip(windows, indices, strict=True):
        ready = {index: frame for index, frame in ready.items() if index >= needed[0]}
        while needed[-1] not in ready:
            frame = next(decoded)
            pixels = pixels_from_image(Image.fromarray(frame.rgb), pixel)
            ready[frame.index] = _Ready(pixels, float(timeline.times_s[frame.shown]), frame.lost)
        shown = [ready[index] for index in needed]
        yield Clip(np.stack([frame.pixels for frame in shown]), np.array([frame.time_s for frame in shown], np.float64),
                   window.start_s, window.end_s, str(path), _damage(window, shown, timeline))


def _damage(window: Window, shown: list[_Ready], timeline: Timeline) -> str | None:
    """One line on the moments that could not be read, or None."""
    is_cut = timeline.readable_s < timeline.duration_s
    lost_s = [moment for moment, frame in zip(window.moments_s.tolist(), shown, strict=True)
              if frame.lost or (is_cut and timeline.readable_s + TOLERANCE_S < moment < window.end_s)]
    if not lost_s:
        return None
    why = f"the file ends at {timeline.readable_s:.2f} of {timeline.duration_s:.2f} s; " if is_cut else ""
    return (f"{why}{len(lost_s)} of {len(shown)} moments cannot be read, the first at {lost_s[0]:.2f} s; "
            "they show the nearest readable frame")
