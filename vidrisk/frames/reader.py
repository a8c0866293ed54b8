"""Reading of frames and clips from a path: choice of decoder and moments; every failure is an ``UnreadableError``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import get_args

import av
import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from vidrisk.frames.clip import Clip, Damage, Frame, FrameWindow, MediaInfo
from vidrisk.frames.geometry import pixels_from_image
from vidrisk.frames.interval import MIN_PART_INSIDE, Interval
from vidrisk.frames.media import check_file, name_of
from vidrisk.frames.photos import photo_size, read_photo
from vidrisk.frames.sampling import indices_from_moments, windows_from_interval
from vidrisk.frames.source import Timeline, VideoSource
from vidrisk.frames.video_decord import DecordSource
from vidrisk.frames.video_pyav import PyAVSource
from vidrisk.runtimes.contract.choices import Decoder, FrameChoice
from vidrisk.runtimes.contract.errors import SettingsError, SpecError, UnreadableError, VidriskError
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

OnImage = Callable[[float | None, Image.Image], None]
MIDDLE_FRAME = TimeSpec(frames=1)
OPTIONAL_DECODERS = ("decord2", "pi-heif", "pillow-heif", "pillow-jxl-plugin")


def read_clips(
    path: str | Path,
    pixel: PixelSpec,
    time: TimeSpec | None,
    interval: Interval | None = None,
    *,
    decoder: Decoder = "auto",
) -> Iterator[Clip]:
    """Read a photo or a video as whole clips: ``read_frames``, collected into arrays.

    At most the frames of two windows are held.

    Raises:
        UnreadableError, SettingsError, MissingExtra: as ``read_frames``.
    """
    held: dict[int, Frame] = {}
    for item in read_frames(path, pixel, time, interval, decoder=decoder):
        if isinstance(item, Frame):
            held[item.index] = item
            continue
        shown = [held[index] for index in item.indices]
        yield Clip(
            np.stack([frame.pixels for frame in shown]),
            np.array([frame.time_s for frame in shown], np.float64),
            item.start_s,
            item.end_s,
            str(path),
            item.damage,
            item.note,
        )
        held = {index: frame for index, frame in held.items() if index >= item.indices[0]}


def read_frames(
    path: str | Path,
    pixel: PixelSpec,
    time: TimeSpec | None,
    interval: Interval | None = None,
    *,
    decoder: Decoder = "auto",
    choice: FrameChoice = "all",
    on_image: OnImage | None = None,
) -> Iterator[Frame | FrameWindow]:
    """Read a photo or a video frame by frame.

    Every frame is yielded once, however many windows show it, and every window after the last of its frames. Nothing is
    opened before the first item is requested.

    A photo gives one frame and one window, which shows it ``time.frames`` times (once if ``time`` is None). A video
    gives one window, the clip, or those of ``sampling.windows_from_interval``; if ``time`` is None, its middle frame.
    With ``interval`` that part of the video is treated as the clip: moments and windows lie inside it, their times stay
    those of the file.

    Args:
        path: path of the file.
        pixel: size and geometry of the frames.
        time: moments and windows.
        interval: the part of a video to read; None reads all of it.
        decoder: ``auto`` is ``pyav``; ``decord`` needs the extra of that name.
        choice: ``keyframes`` shows at every moment the last keyframe before it, so that nothing else is decoded.
        on_image: called with the time (None for a photo) and the upright RGB image of every frame, in the size it was
            decoded in, just before the frame is yielded.

    Raises:
        UnreadableError: the file cannot be read; ``state`` says whether it is corrupt, too_large, or skipped (missing,
            not permitted, no picture in it, an interval outside of it or of a photo).
        SettingsError: an unknown decoder or choice.
        MissingExtra: decord is requested and not installed.
    """
    path = Path(path)
    for what, value, allowed in (
        ("decoder", decoder, get_args(Decoder)),
        ("frame choice", choice, get_args(FrameChoice)),
    ):
        if value not in allowed:
            raise SettingsError(f"{what} {value!r}", allowed=", ".join(allowed))
    if check_file(path) == "image":
        if interval:
            raise UnreadableError(
                f"{name_of(path)} is a photo, which has no interval {interval}",
                state="skipped",
                fix="remove the interval",
            )
        photo = read_photo(path, pixel, on_image and partial(on_image, None))
        yield Frame(0, 0.0, photo.pixels)
        yield FrameWindow(None, None, (0,) * (time.frames if time else 1), photo.damage, photo.note)
        return
    with _translate_errors(path), _open(path, decoder) as source:
        timeline = source.timeline
        part_s = interval.locate_s(timeline, name_of(path)) if interval else (0.0, timeline.duration_s, "")
        inside_s = timeline.readable_s - part_s[0]
        if interval and inside_s < MIN_PART_INSIDE * (part_s[1] - part_s[0]):
            where = "before" if inside_s <= 0 else "in the first half of"
            raise UnreadableError(f"{name_of(path)}: the file ends at {timeline.readable_s:.2f} s, {where} {interval}")
        yield from _frames_from_video(source, pixel, time or MIDDLE_FRAME, choice, part_s, on_image)


def probe(path: str | Path) -> MediaInfo:
    """Return what a file holds; a video's first frame is decoded, so a file that passes can be read.

    Raises:
        UnreadableError: as ``read_clips``.
    """
    path = Path(path)
    if check_file(path) == "image":
        width, height = photo_size(path)
        return MediaInfo("image", width, height, None, 1, None)
    with _translate_errors(path), PyAVSource(path) as source:
        timeline = source.timeline
        height, width = next(source.frames_at([0])).rgb.shape[:2]
        frames = len(timeline.times_s)
        return MediaInfo("video", width, height, timeline.duration_s, frames, frames / timeline.readable_s)


def decoder_versions() -> tuple[str, ...]:
    """Return the versions of the libraries on which pixels depend; '' if not installed."""
    return av.__version__, PIL.__version__, *map(_find_version, OPTIONAL_DECODERS)


def _find_version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _open(path: Path, decoder: Decoder) -> VideoSource:
    return DecordSource(path) if decoder == "decord" else PyAVSource(path)


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    """Convert the decoders' exceptions into ``UnreadableError``."""
    try:
        yield
    except SpecError as error:  # an absurd number of windows
        raise UnreadableError(f"{name_of(path)}: {error}", state="too_large") from error
    except VidriskError:
        raise
    except MemoryError as error:
        raise UnreadableError(f"{name_of(path)} does not fit into memory", state="too_large") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableError(f"{name_of(path)} cannot be decoded: {reason}") from error


def _frames_from_video(
    source: VideoSource,
    pixel: PixelSpec,
    time: TimeSpec,
    choice: FrameChoice,
    part_s: tuple[float, float, str],
    on_image: OnImage | None,
) -> Iterator[Frame | FrameWindow]:
    """Yield frames and windows of a part of a video.

    ``part_s`` holds its start and end on the timeline, and the note of every window.
    """
    timeline = source.timeline
    start_s, stated_end_s, note = part_s
    end_s = min(stated_end_s, timeline.readable_s)
    keyframes = _keyframes_within(source, start_s, end_s) if choice == "keyframes" else None
    wanted, windows = np.zeros(len(timeline.times_s), bool), 0
    for window in windows_from_interval(start_s, end_s, time):
        wanted[_find_shown(window.moments_s, timeline, keyframes)] = True
        windows += 1
    decoded = source.frames_at(np.flatnonzero(wanted).tolist())
    lost: set[int] = set()
    given = -1
    # Generated a second time, so that a million windows need not be held.
    for number, window in enumerate(windows_from_interval(start_s, end_s, time), start=1):
        shown = tuple(_find_shown(window.moments_s, timeline, keyframes).tolist())
        while given < shown[-1]:
            frame = next(decoded)
            given = frame.index
            if frame.lost:
                lost.add(given)
            image, time_s = Image.fromarray(frame.rgb), float(timeline.times_s[frame.shown])
            if on_image:
                on_image(time_s, image)
            yield Frame(given, time_s, pixels_from_image(image, pixel))
        lost = {index for index in lost if index >= shown[0]}
        cut_s = (end_s, stated_end_s) if number == windows and end_s < stated_end_s else None
        damage = _damage(window.moments_s, shown, lost, cut_s)
        yield FrameWindow(window.start_s, window.end_s, shown, damage, "; ".join(filter(None, (source.note, note))))


def _keyframes_within(source: VideoSource, start_s: float, end_s: float) -> npt.NDArray[np.intp]:
    """Return the keyframes shown between two moments; earlier ones may show another scene."""
    keyframes, times_s = source.keyframes(), source.timeline.times_s
    if start_s == 0.0:
        return keyframes
    first, last = indices_from_moments(np.array([start_s, end_s]), times_s)
    within: npt.NDArray[np.intp] = keyframes[(keyframes >= first) & (keyframes <= last)]
    return within


def _find_shown(
    moments_s: npt.NDArray[np.float64], timeline: Timeline, keyframes: npt.NDArray[np.intp] | None
) -> npt.NDArray[np.intp]:
    """Return the index of the frame, or of the keyframe, shown at each moment: the last one before it."""
    indices = indices_from_moments(moments_s, timeline.times_s)
    if keyframes is None or not len(keyframes):
        return indices
    return keyframes[np.maximum(np.searchsorted(keyframes, indices, side="right") - 1, 0)]


def _damage(
    moments_s: npt.NDArray[np.float64], shown: tuple[int, ...], lost: set[int], cut_s: tuple[float, float] | None
) -> Damage | None:
    lost_s = [moment for moment, index in zip(moments_s.tolist(), shown, strict=True) if index in lost]
    return Damage((lost_s[0], lost_s[-1]) if lost_s else None, cut_s) if lost_s or cut_s else None
