"""Recognition of media files, and checks before any decoder runs: content, suffix, type of file, permission, size."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vidrisk.files.system_files import is_copy, is_unfinished
from vidrisk.frames.content import Kind, kind_from_content, read_head
from vidrisk.runtimes.contract.errors import UnreadableError
from vidrisk.runtimes.contract.printable import printable

# Raw photos are read through their preview. A file that no installed decoder reads is still an input, and is reported
# with the reason.
RAW_SUFFIXES = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw")
IMAGE_SUFFIXES = (
    ".avif",
    ".bmp",
    ".gif",
    ".heic",
    ".heif",
    ".hif",
    ".jfif",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".jxl",
    ".png",
    ".tif",
    ".tiff",
    ".webp",
    *RAW_SUFFIXES,
)
VIDEO_SUFFIXES = (
    ".3g2",
    ".3gp",
    ".asf",
    ".avi",
    ".divx",
    ".dv",
    ".f4v",
    ".flv",
    ".m2t",
    ".m2ts",
    ".m4v",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpe",
    ".mpeg",
    ".mpg",
    ".mts",
    ".mxf",
    ".ogv",
    ".qt",
    ".ts",
    ".vob",
    ".webm",
    ".wmv",
)
MEDIA_SUFFIXES = IMAGE_SUFFIXES + VIDEO_SUFFIXES
_SOUND, _RAW_PHOTO, _STREAM = "a sound file", "a camera's raw photo", "a stream of pictures without a container"
# Suffixes of files that begin like a clip or a photo but are neither, with what they are.
_NEITHER = (
    dict.fromkeys((".aax", ".f4a", ".m4a", ".m4b", ".m4p", ".m4r", ".mka", ".weba", ".wma"), _SOUND)
    | dict.fromkeys(
        (".3fr", ".dcr", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".rwl", ".sr2", ".srf", ".x3f"), _RAW_PHOTO
    )
    | dict.fromkeys((".mjpeg", ".mjpg"), _STREAM)
    | {".mks": "subtitles"}
)
# Files that encoders and recorders write without a container, or in their own. Some files with these suffixes do hold a
# common container.
_STREAMS = dict.fromkeys((".264", ".265", ".avc", ".h264", ".h265", ".hevc", ".m1v", ".m2v", ".mpv"), _STREAM) | {
    ".dav": "in a recorder's own format"
}
# Files that are common next to clips and photos; they are not opened to determine their content.
_TEXT_SUFFIXES = (
    ".csv",
    ".db",
    ".gpx",
    ".html",
    ".ini",
    ".json",
    ".jsonl",
    ".log",
    ".md",
    ".npy",
    ".npz",
    ".parquet",
    ".pdf",
    ".py",
    ".srt",
    ".tsv",
    ".txt",
    ".xlsx",
    ".xml",
    ".xmp",
    ".yaml",
    ".yml",
    ".zip",
)

# Checked before pixels are allocated: 100 Mpx take 0.4 GB as a photo, and up to 1.6 GB while decoding a WebP.
MAX_FRAME_PX = 100_000_000
# Some photos are read into memory. Eight bytes per pixel are 16 bits of four channels, uncompressed.
MAX_PHOTO_BYTES = 10 * MAX_FRAME_PX
# A video's timeline is held in memory: a day at the rate of a fast camera is 0.3 GB of it.
MAX_DURATION_S = 24 * 3600
MAX_FRAMES_PER_VIDEO = MAX_DURATION_S * 120


def kind_of(path: str | os.PathLike[str]) -> Kind | None:
    """Return whether a file is a photo or a video, by content if certain, else by suffix in any case.

    An animated image counts as a photo, because only its first frame is used. The file is opened; the suffix alone
    decides if it cannot be opened.
    """
    try:
        status, head = read_head(path)
    except (OSError, ValueError):
        return kind_from_suffix(path)
    return _kind_from_head(path, head, status.st_size)


def kind_from_suffix(path: str | os.PathLike[str]) -> Kind | None:
    """Return the kind that the suffix indicates, without opening the file."""
    suffix = _suffix(path)
    return "image" if suffix in IMAGE_SUFFIXES else "video" if suffix in VIDEO_SUFFIXES else None


def is_media(path: str | os.PathLike[str]) -> bool:
    """Return whether a file found in a folder is to be used as a clip or a photo.

    Only files of unknown suffixes are opened. They are not used if the name marks them as unfinished or as a copy set
    aside by a program.
    """
    if kind_from_suffix(path):
        return True
    name, suffix = os.path.basename(path), _suffix(path)  # noqa: PTH119 (quicker)
    if suffix in _TEXT_SUFFIXES or suffix in _NEITHER or is_unfinished(name) or is_copy(name):
        return False
    return kind_of(path) is not None


def name_of(path: str | Path) -> str:
    """Return the path for messages, logs and pages: ``printable``, whatever characters it contains."""
    return printable(str(path))


def check_file(path: Path) -> Kind:
    """Return the kind of a file, and refuse files that no decoder should open (a FIFO would block it forever).

    Raises:
        UnreadableError: missing, not a regular file, not permitted, not a media file (skipped), empty (corrupt), or a
            photo over MAX_PHOTO_BYTES (too_large).
    """
    name = name_of(path)
    try:
        status, head = read_head(path)
    except FileNotFoundError as error:
        raise UnreadableError(f"{name} does not exist", state="skipped") from error
    except PermissionError as error:
        raise UnreadableError(f"{name} may not be read", state="skipped", fix="grant read permission") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadableError(f"{name} cannot be opened: {reason}", state="skipped") from error
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableError(f"{name} is not a file", state="skipped")
    kind = _kind_from_head(path, head, status.st_size)
    if kind is None:
        raise _not_media(path)
    if status.st_size == 0:
        raise UnreadableError(f"{name} is empty (0 bytes)")
    if kind == "image" and status.st_size > MAX_PHOTO_BYTES:
        raise UnreadableError(
            f"{name} has {status.st_size} bytes, the limit of photos is {MAX_PHOTO_BYTES}",
            state="too_large",
            fix="scale it down first",
        )
    return kind


def _kind_from_head(path: str | os.PathLike[str], head: bytes, size: int) -> Kind | None:
    if _suffix(path) in _NEITHER:
        return None
    return kind_from_content(head, size) or kind_from_suffix(path)


def _not_media(path: Path) -> UnreadableError:
    what = (_NEITHER | _STREAMS).get(_suffix(path))
    fix = f"use one of {' '.join(MEDIA_SUFFIXES)}"
    if what == _STREAM or _suffix(path) in _STREAMS:
        fix = "put it into a container at its true rate, as with: ffmpeg -r 25 -i IN -c copy OUT.mkv"
    return UnreadableError(
        f"{name_of(path)} is {f'{what}, and ' if what else ''}neither a photo nor a video", state="skipped", fix=fix
    )


def _suffix(path: str | os.PathLike[str]) -> str:
    return os.path.splitext(path)[1].lower()  # noqa: PTH122 (of 50,000 names, a Path takes longest)


def check_size(width: int, height: int, path: Path) -> None:
    """Refuse a frame that is too large, before it is allocated.

    Raises:
        UnreadableError: over MAX_FRAME_PX (too_large), or without a size (corrupt).
    """
    if width < 1 or height < 1:
        raise UnreadableError(f"{name_of(path)} states no picture size")
    if width * height > MAX_FRAME_PX:
        raise UnreadableError(
            f"{name_of(path)} is {width}x{height} pixels, the limit is {MAX_FRAME_PX // 10**6} million",
            state="too_large",
            fix="scale it down first",
        )


def check_frame_count(frames: int, path: Path) -> None:
    """Refuse a video with too many frames, as counted so far or as stated in its header.

    Raises:
        UnreadableError: over MAX_FRAMES_PER_VIDEO (too_large).
    """
    if frames > MAX_FRAMES_PER_VIDEO:
        raise UnreadableError(
            f"{name_of(path)} has, or states, more than {MAX_FRAMES_PER_VIDEO} frames",
            state="too_large",
            fix="cut it into parts",
        )


def check_duration(duration_s: float, path: Path) -> None:
    """Refuse a video that is too long.

    Raises:
        UnreadableError: over MAX_DURATION_S (too_large).
    """
    if duration_s > MAX_DURATION_S:
        raise UnreadableError(
            f"{name_of(path)} lasts {duration_s / 3600:.1f} hours, the limit is {MAX_DURATION_S // 3600}",
            state="too_large",
            fix="cut it into parts",
        )
