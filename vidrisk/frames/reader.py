"""From a path to frames and clips: which decoder, which moments, and every failure as one ``UnreadableError``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Literal, get_args

import av
import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from vidrisk.frames.clip import Clip, Damage, Frame, FrameWindow, MediaInfo
from vidrisk.frames.geometry import pixels_from_image
from vidrisk.frames.media import check_file, is_image, name_of
from vidrisk.frames.photos import photo_size, pixels_from_photo
from vidrisk.frames.sampling import indices_from_moments, windows_from_duration
from vidrisk.frames.source import Timeline, VideoSource
from vidrisk.frames.video_decord import DecordSource
from vidrisk.frames.video_pyav import PyAVSource
from vidrisk.runtimes.errors import SettingsError, SpecError, UnreadableError, VidriskError
from vidrisk.runtimes.specs import PixelSpec, TimeSpec

Decoder = Literal["auto", "pyav", "decord"]
FrameChoice = Literal["all", "keyframes"]
MIDDLE_FRAME = TimeSpec(frames=1)


def read_clips(path: str | Path, pixel: PixelSpec, time: TimeSpec | None, *,
               decoder: Decoder = "auto") -> Iterator[Clip]:
    """Read a photo or a video as whole clips: ``read_frames``, gathered into arrays. No more frames are held than two
    windows need.

    Raises:
        UnreadableError, SettingsError, MissingExtra: as ``read_frames``.
    """
    held: dict[int, Frame] = {}
    for item in read_frames(path, pixel, time, decoder=decoder):
        if isinstance(item, Frame):
            held[item.index] = item
            continue
        shown = [held[index] for index in item.indices]
        yield Clip(np.stack([frame.pixels for frame in shown]), np.array([frame.time_s for frame in shown], np.float64),
                   item.start_s, item.end_s, str(path), item.damage)
        held = {index: frame for index, frame in held.items() if index >= item.indices[0]}


def read_frames(path: str | Path, pixel: PixelSpec, time: TimeSpec | None, *, decoder: Decoder = "auto",
                choice: FrameChoice = "all") -> Iterator[Frame | FrameWindow]:
    """Read a photo or a video frame by frame. Every frame comes once, however many windows show it, and every window
    behind the last of its frames. Nothing is opened before the first item is asked for.

    A photo gives one frame and one window, which shows it ``time.frames`` times (once when ``time`` is None). A video
    gives one window, the clip, or those of ``sampling.windows_from_duration``; with ``time`` None, its middle frame.

    Args:
        decoder: ``auto`` is ``pyav``; ``decord`` needs the extra of that name.
        choice: ``keyframes`` shows at every moment the last keyframe before it, so that nothing else is decoded.

    Raises:
        UnreadableError: the file cannot be read; ``state`` says whether it is corrupt, too_large, or skipped (missing,
            not permitted, no picture in it).
        SettingsError: another decoder or choice.
        MissingExtra: decord is asked for and not installed.
    """
    path = Path(path)
    for what, value, allowed in (("decoder", decoder, get_args(Decoder)), ("frame choice", choice, get_args(FrameChoice))):
        if value not in allowed:
            raise SettingsError(f"{what} {value!r}", allowed=", ".join(allowed))
    check_file(path)
    if is_image(path):
        yield Frame(0, 0.0, pixels_from_photo(path, pixel))
        yield FrameWindow(None, None, (0,) * (time.frames if time else 1))
        return
    with _translated(path), _opened(path, decoder) as source:
        yield from _frames_from_video(source, pixel, time or MIDDLE_FRAME, choice)


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


def decoder_versions() -> tuple[str, ...]:
    """Of the libraries whose next version may give other pixels."""
    try:
        decord = metadata.version("decord2")
    except metadata.PackageNotFoundError:
        decord = ""
    return av.__version__, PIL.__version__, decord


def _opened(path: Path, decoder: Decoder) -> VideoSource:
    return DecordSource(path) if decoder == "decord" else PyAVSource(path)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """The seam where the decoders' exceptions become ours."""
    try:
        yield
    except SpecError as error:  # so many windows that nobody can want them
        raise UnreadableError(f"{name_of(path)}: {error}", state="too_large") from error
    except VidriskError:
        raise
    except MemoryError as error:
        raise UnreadableError(f"{name_of(path)} does not fit into memory", state="too_large") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableError(f"{name_of(path)} cannot be decoded: {reason}") from error


def _frames_from_video(source: VideoSource, pixel: PixelSpec, time: TimeSpec, choice: FrameChoice) -> Iterator[Frame | FrameWindow]:
    timeline = source.timeline
    keyframes = source.keyframes() if choice == "keyframes" else None
    wanted, windows = np.zeros(len(timeline.times_s), bool), 0
    for window in windows_from_duration(timeline.readable_s, time):
        wanted[_shown_at(window.moments_s, timeline, keyframes)] = True
        windows += 1
    decoded = source.frames_at(np.flatnonzero(wanted).tolist())
    lost: set[int] = set()
    given = -1
    # Again, because a million windows need not be held.
    for number, window in enumerate(windows_from_duration(timeline.readable_s, time), start=1):
        shown = tuple(_shown_at(window.moments_s, timeline, keyframes).tolist())
        while given < shown[-1]:
            frame = next(decoded)
            given = frame.index
            if frame.lost:
                lost.add(given)
            yield Frame(given, float(timeline.times_s[frame.shown]), pixels_from_image(Image.fromarray(frame.rgb), pixel))
        lost = {index for index in lost if index >= shown[0]}
        damage = _damage(window.moments_s, shown, lost, timeline, is_last=number == windows)
        yield FrameWindow(window.start_s, window.end_s, shown, damage)


def _shown_at(moments_s: npt.NDArray[np.float64], timeline: Timeline,
              keyframes: npt.NDArray[np.intp] | None) -> npt.NDArray[np.intp]:
    """Index of the frame shown at each moment: the last one before it, or the last keyframe before it."""
    indices = indices_from_moments(moments_s, timeline.times_s)
    if keyframes is None or not len(keyframes):
        return indices
    return keyframes[np.maximum(np.searchsorted(keyframes, indices, side="right") - 1, 0)]


def _damage(moments_s: npt.NDArray[np.float64], shown: tuple[int, ...], lost: set[int], timeline: Timeline, *,
            is_last: bool) -> Damage | None:
    lost_s = [moment for moment, index in zip(moments_s.tolist(), shown, strict=True) if index in lost]
    is_cut = is_last and timeline.readable_s < timeline.duration_s
    if not (lost_s or is_cut):
        return None
    return Damage((lost_s[0], lost_s[-1]) if lost_s else None, (timeline.readable_s, timeline.duration_s) if is_cut else None)
