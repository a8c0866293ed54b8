"""Which files are read, and the checks that come before any decoder: suffix, kind of file, permission, size."""

from __future__ import annotations

import stat
from pathlib import Path

from vidrisk.runtimes.errors import UnreadableError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm",
                  ".wmv")
MEDIA_SUFFIXES = IMAGE_SUFFIXES + VIDEO_SUFFIXES

# Checked before pixels are allocated: 100 Mpx take 0.4 GB as a photo, and up to 1.6 GB while a WebP is decoded.
MAX_SIDE_PX = 16384
MAX_FRAME_PX = 100_000_000
# Some photos are read whole. Eight bytes a pixel are 16 bits of four channels, uncompressed.
MAX_PHOTO_BYTES = 10 * MAX_FRAME_PX
# A video's timeline is held in memory: a day at the rate of a fast camera is 0.3 GB of it.
MAX_DURATION_S = 24 * 3600
MAX_FRAMES_PER_VIDEO = MAX_DURATION_S * 120


def is_image(path: str | Path) -> bool:
    """Whether the suffix is a photo's, in any case. Of an animated image the first frame counts."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def is_video(path: str | Path) -> bool:
    """Whether the suffix is a video's, in any case."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def name_of(path: str | Path) -> str:
    """The path for messages: always encodable, even when the file name is not valid Unicode."""
    return str(path).encode("utf-8", "replace").decode("utf-8")


def check_file(path: Path) -> None:
    """Refuse what no decoder should be asked to open (a FIFO would block it for ever).

    Raises:
        UnreadableError: missing, not a regular file, not permitted, not a media file (skipped), empty (corrupt), or
            a photo over MAX_PHOTO_BYTES (too_large).
    """
    name = name_of(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError(f"{name} is not a file", state="skipped")
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise UnreadableError(f"{name} does not exist", state="skipped") from error
    except PermissionError as error:
        raise UnreadableError(f"{name} may not be read", state="skipped", fix="grant read permission") from error
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{name} cannot be opened: {error}", state="skipped") from error
    if not (is_image(path) or is_video(path)):
        raise UnreadableError(f"{name} is neither a photo nor a video", state="skipped",
                              fix=f"use one of {' '.join(MEDIA_SUFFIXES)}")
    if status.st_size == 0:
        raise UnreadableError(f"{name} is empty (0 bytes)")
    if is_image(path) and status.st_size > MAX_PHOTO_BYTES:
        raise UnreadableError(f"{name} has {status.st_size} bytes, the limit of photos is {MAX_PHOTO_BYTES}",
                              state="too_large", fix="scale it down first")


def check_size(width: int, height: int, path: Path) -> None:
    """Refuse a frame that is too large, before it is allocated.

    Raises:
        UnreadableError: over MAX_SIDE_PX on a side or MAX_FRAME_PX in all (too_large), or no size at all (corrupt).
    """
    if width < 1 or height < 1:
        raise UnreadableError(f"{name_of(path)} states no picture size")
    if max(width, height) > MAX_SIDE_PX or width * height > MAX_FRAME_PX:
        raise UnreadableError(f"{name_of(path)} is {width}x{height} pixels, the limit is {MAX_SIDE_PX} per side and "
                              f"{MAX_FRAME_PX // 10**6} million in all",
                              state="too_large", fix="scale it down first")


def check_frame_count(frames: int, path: Path) -> None:
    """Refuse a video with too many frames, while they are counted or for what its header states.

    Raises:
        UnreadableError: over MAX_FRAMES_PER_VIDEO (too_large).
    """
    if frames > MAX_FRAMES_PER_VIDEO:
        raise UnreadableError(f"{name_of(path)} has, or states, more than {MAX_FRAMES_PER_VIDEO} frames", state="too_large",
                              fix="cut it into parts")


def check_duration(duration_s: float, path: Path) -> None:
    """Refuse a video that is too long.

    Raises:
        UnreadableError: over MAX_DURATION_S (too_large).
    """
    if duration_s > MAX_DURATION_S:
        raise UnreadableError(f"{name_of(path)} lasts {duration_s / 3600:.1f} hours, the limit is {MAX_DURATION_S // 3600}",
                              state="too_large", fix="cut it into parts")
