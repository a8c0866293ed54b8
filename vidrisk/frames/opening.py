"""Opening of a video: its container, the stream to use, and that stream's decoder."""

from __future__ import annotations

from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from vidrisk.frames.media import MAX_FRAME_PX, check_size, name_of
from vidrisk.runtimes.contract.errors import UnreadableError

# Containers only, and local files only: a playlist named .mp4 must not open other files or addresses.
OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,avi,matroska,mpegts,mpeg,asf,flv,ogg,mxf,dv",
    "max_pixels": str(MAX_FRAME_PX),
}
# For MPEG-4 part 2 and similar codecs, ``auto`` uses another inverse transform on ARM; on x86 it uses this one.
SAME_TRANSFORM = {"idct": "simple"}


def open_video(path: Path, number: int | None = None) -> tuple[InputContainer, VideoStream]:
    """Open a file with the stream of the given number, or with the preferred stream for None.

    Decoded frames carry the ``opaque`` of the packets that they were decoded from.

    Raises:
        UnreadableError: not a video (corrupt), without a video stream or in need of another decoder (skipped), or too
            large.
    """
    # the prefix "file:" keeps a name with a colon from being parsed as a protocol
    try:
        container = av.open(f"file:{path.absolute()}", options=OPTIONS, metadata_errors="replace")
    except av.FFmpegError as error:
        raise UnreadableError(f"{name_of(path)} cannot be opened as a video: {error.strerror}") from error
    try:
        streams = streams_by_preference(container)
        if not streams:
            raise UnreadableError(f"{name_of(path)} has no video stream", state="skipped")
        stream = next((stream for stream in streams if stream.index == number), streams[0])
        codec = stream.codec_context
        if codec is None:
            raise UnreadableError(f"{name_of(path)} needs a decoder that is not installed", state="skipped")
        check_size(codec.width, codec.height, path)
        codec.thread_count = 1
        codec.options = {"max_pixels": str(MAX_FRAME_PX), **SAME_TRANSFORM}
        codec.copy_opaque = True
    except BaseException:
        container.close()
        raise
    return container, stream


def streams_by_preference(container: InputContainer) -> list[VideoStream]:
    """Return the video streams, starting with FFmpeg's choice (av_find_best_stream).

    Cover pictures are excluded, and streams that state a single frame come last.
    """
    best = container.streams.best("video")
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    return sorted(
        streams, key=lambda stream: (stream.frames == 1, stream != best, not stream.disposition & Disposition.default)
    )
