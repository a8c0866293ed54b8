"""Reading of one input in a worker, from its path to its final state."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from vidrisk.decode.cuts import Box, Cut, cuts_from_photo
from vidrisk.decode.jpegs import Jpeg, jpeg_from_photo, refuse_videos
from vidrisk.decode.messages import READ_STATES, CutSettings, InputEnd, KnownFrame, PhotoSettings, ReadSettings
from vidrisk.decode.static import without_static
from vidrisk.decode.thumbnails import MAX_KEPT_FRAMES, Thumbnail, thumbnail_from_image, thumbnails_at
from vidrisk.decode.window_cache import through_cache
from vidrisk.files.cache import ArrayCache
from vidrisk.frames import Damage, Frame, FrameWindow, Interval, read_frames
from vidrisk.frames.media import name_of
from vidrisk.runtimes.contract.bundle import sha256_of
from vidrisk.runtimes.contract.errors import UnreadableError

_log = logging.getLogger(__name__)


def read_input(
    path: str, settings: ReadSettings, cache: ArrayCache | None, interval: Interval | None = None
) -> Iterator[Frame | KnownFrame | FrameWindow | Thumbnail | InputEnd]:
    """Yield the frames and windows of one input, then its end; thumbnails, if wanted, precede their frames.

    Never raises: errors become the state and its reason. An input that fails after its first windows is ``partial``:
    what could be read counts.
    """
    decode_s, keys = 0.0, [""]
    damage: Damage | None = None
    notes: dict[str, None] = {}  # an ordered set
    last: FrameWindow | None = None
    state, reason, is_starved, is_refused = "ok", "", False, False
    thumbnails: list[Thumbnail] = []
    started_s = time.perf_counter()
    try:
        _refuse_folder(path)
        for item in _items(path, settings, cache, interval, thumbnails, keys.append):
            if isinstance(item, FrameWindow):
                last = item
                damage = item.damage if damage is None else damage.with_later(item.damage or Damage())
                if item.note:
                    notes[item.note] = None
            decode_s += time.perf_counter() - started_s
            if isinstance(item, Frame):
                yield from thumbnails[-1:]  # earlier ones belong to frames that were skipped
                thumbnails.clear()
            yield item
            started_s = time.perf_counter()
        if damage:
            state, reason = "partial", str(damage)
        reason = "; ".join(filter(None, (reason, *notes)))
    except Exception as error:  # a decoder error must not end the run
        failed = _end_from_error(error, path)
        state, reason, is_starved, is_refused = failed.state, failed.reason, failed.is_starved, failed.is_refused
    if last and state not in READ_STATES:
        state, reason = "partial", f"{reason}; read up to {last.end_s or 0:.2f} s"
    content = content_of(path) if last else ""
    yield InputEnd(
        state,
        reason,
        decode_s + time.perf_counter() - started_s,
        keys[-1],
        content,
        is_starved=is_starved,
        is_refused=is_refused,
    )


def read_thumbnails(
    path: str, moments_s: tuple[float, ...], max_bytes: int, on_frame: Callable[[], None]
) -> Iterator[Thumbnail | InputEnd]:
    """Yield the thumbnails of one input, then its end."""
    started_s = time.perf_counter()
    try:
        yield from thumbnails_at(path, moments_s, max_bytes, on_frame)
    except MemoryError:
        yield InputEnd("too_large", "it does not fit into memory", time.perf_counter() - started_s, is_starved=True)
    else:
        yield InputEnd("ok", "", time.perf_counter() - started_s)


def read_jpeg(path: str, settings: PhotoSettings) -> Iterator[Jpeg | InputEnd]:
    """Yield one photo as a JPEG, then its end. Never raises."""
    started_s = time.perf_counter()
    try:
        jpeg, reason, is_damaged = jpeg_from_photo(
            Path(path), settings.max_width, settings.max_height, settings.quality
        )
        yield jpeg
        end = InputEnd("partial" if is_damaged else "ok", reason, content=content_of(path))
    except Exception as error:
        end = _end_from_error(error, path)
    yield replace(end, decode_s=time.perf_counter() - started_s)


def read_cuts(path: str, boxes: Sequence[Box], settings: CutSettings) -> Iterator[Cut | InputEnd]:
    """Yield parts of one photo as PNGs, then its end. Never raises."""
    started_s = time.perf_counter()
    damage = ""
    try:
        for item in cuts_from_photo(Path(path), boxes, settings.max_side):
            if isinstance(item, Cut):
                yield item
            else:
                damage = item
        end = InputEnd("partial" if damage else "ok", damage, content=content_of(path))
    except Exception as error:
        end = _end_from_error(error, path)
    yield replace(end, decode_s=time.perf_counter() - started_s)


def read_photo_frame(
    path: str, settings: ReadSettings
) -> Iterator[Frame | KnownFrame | FrameWindow | Thumbnail | InputEnd]:
    """Yield the frame of one photo, then its end, like ``read_input``. Never raises; refuses videos."""
    started_s = time.perf_counter()
    try:
        refuse_videos(Path(path))
    except Exception as error:
        yield replace(_end_from_error(error, path), decode_s=time.perf_counter() - started_s)
        return
    yield from read_input(path, settings, None)


def _end_from_error(error: Exception, path: str) -> InputEnd:
    """Convert an error raised while reading an input into its end."""
    if isinstance(error, UnreadableError):
        cause = error.__cause__
        return InputEnd(
            error.state,
            str(error).removeprefix(f"{name_of(path)} "),
            is_starved=isinstance(cause, MemoryError),
            is_refused=isinstance(cause, PermissionError),
        )
    if isinstance(error, OSError):
        return InputEnd("skipped", error.strerror or repr(error))
    if isinstance(error, MemoryError):
        return InputEnd("too_large", "it does not fit into memory", is_starved=True)
    _log.debug("reading %r crashed", path, exc_info=True)
    return InputEnd("crashed", " ".join(f"{type(error).__name__}: {error}".split()))


def content_of(path: str) -> str:
    """Return the hex sha256 of a file that has been read, or "" if it is no longer readable."""
    try:
        return sha256_of(Path(path))
    except OSError:
        return ""


def _items(
    path: str,
    settings: ReadSettings,
    cache: ArrayCache | None,
    interval: Interval | None,
    thumbnails: list[Thumbnail],
    on_kept: Callable[[str], None],
) -> Iterable[Frame | KnownFrame | FrameWindow]:
    kept = 0

    def keep(time_s: float | None, image: Image.Image) -> None:
        nonlocal kept
        kept += 1
        if kept <= MAX_KEPT_FRAMES:
            max_bytes = settings.thumbnail_bytes if time_s is None else settings.frame_thumbnail_bytes
            thumbnails.append(thumbnail_from_image(image, time_s, max_bytes))

    items: Iterable[Frame | FrameWindow] = read_frames(
        path,
        settings.pixel,
        settings.time,
        interval,
        decoder=settings.decoder,
        choice=settings.choice,
        on_image=keep if settings.thumbnail_bytes else None,
    )
    if settings.static_levels:
        items = without_static(items, settings.static_levels)
    if cache is None:
        return items
    return through_cache(cache, path, settings, items, interval, on_kept)


def _refuse_folder(path: str) -> None:
    """Raise the error that a folder causes when listed; a folder becomes an input only if listing it failed."""
    if os.path.isdir(path):  # noqa: PTH112 (never raises)
        with os.scandir(path):
            raise UnreadableError("a folder that could not be listed", state="skipped")
