"""Video frames through PyAV (FFmpeg's libraries): the decoder that is always there."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import TracebackType

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from typing_extensions import Self

from vidrisk.frames.boxes import stated_frames
from vidrisk.frames.clocks import PacketIndex
from vidrisk.frames.media import MAX_FRAME_PX, check_frame_count, check_size, name_of
from vidrisk.frames.packets import index_from_container
from vidrisk.frames.source import Decoded, Timeline
from vidrisk.runtimes.errors import UnreadableError

logger = logging.getLogger(__name__)

# Containers only, and local files only: a playlist that calls itself .mp4 must not open other files or addresses.
OPTIONS = {"protocol_whitelist": "file", "format_whitelist": "mov,avi,matroska,mpegts,mpeg,asf,flv",
           "max_pixels": str(MAX_FRAME_PX)}
# A seek throws the decoder's state away; it pays when it skips at least this many packets.
MIN_SKIPPED_PACKETS = 8
# Every processor must see the same pixels. FFmpeg's quick conversion to RGB rounds differently on x86 and on ARM, in most values
# and by up to 4 of 255; with ACCURATE_RND it does not. PyAV 17 takes the flags as a number only: SWS_POINT | SWS_ACCURATE_RND.
SAME_EVERYWHERE = 0x10 | 0x40000
# MPEG-4 part 2 and its like: ``auto`` takes another inverse transform on ARM; on x86 this is what it takes.
SAME_TRANSFORM = {"idct": "simple"}


class PyAVSource:
    """An open video. One thread decodes: several files at once use the cores better than several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        check_frame_count(stated_frames(path), path)
        self._container, self._stream = self._open()
        try:
            index = index_from_container(self._container, self._stream, path)
            if index is None:
                raise UnreadableError(f"{name_of(path)} has a video stream without frames")
        except BaseException:
            self._container.close()
            raise
        self._index: PacketIndex = index
        self._failures = 0
        self._may_seek = index.clock != "count"

    def _open(self) -> tuple[InputContainer, VideoStream]:
        # "file:" keeps a name with a colon from being read as a protocol
        try:
            container = av.open(f"file:{self._path.absolute()}", options=OPTIONS, metadata_errors="replace")
        except av.FFmpegError as error:
            raise UnreadableError(f"{name_of(self._path)} cannot be opened as a video: {error.strerror}") from error
        try:
            # a cover picture in an audio file is no video
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                raise UnreadableError(f"{name_of(self._path)} has no video stream", state="skipped")
            # what a player shows: the stream that is marked, else the first
            stream = max(streams, key=lambda stream: bool(stream.disposition & Disposition.default))
            codec = stream.codec_context
            if codec is None:
                raise UnreadableError(f"{name_of(self._path)} needs a decoder that is not installed", state="skipped")
            check_size(codec.width, codec.height, self._path)
            codec.thread_count = 1
            codec.options = {"max_pixels": str(MAX_FRAME_PX), **SAME_TRANSFORM}
        except BaseException:
            container.close()
            raise
        return container, stream

    @property
    def timeline(self) -> Timeline:
        return self._index.timeline

    @property
    def kind(self) -> tuple[str, str]:
        """(container, codec) as FFmpeg calls them."""
        return self._container.format.name, self._stream.codec_context.name

    @property
    def is_plain(self) -> bool:
        """Whether frames come in the order of stored times, and there is no other stream to be mistaken for this one."""
        return self._index.clock == "pts" and len(self._container.streams.video) == 1

    def keyframes(self) -> npt.NDArray[np.intp]:
        """See ``VideoSource.keyframes``."""
        index = self._index
        return np.flatnonzero(np.isin(index.stamps, index.key_stamps, assume_unique=True))

    def frames_at(self, indices: Sequence[int]) -> Iterator[Decoded]:
        """See ``VideoSource.frames_at``. A frame stays on screen until the next one that can be decoded."""
        pending = deque(indices)
        held: tuple[int, VideoFrame] | None = None
        failures = 0
        for index, frame in self._frames_towards(pending):
            while pending and index > pending[0]:
                shown = held or (index, frame)
                yield self._decoded(pending.popleft(), *shown, failed=held is not None and self._failures > failures)
            held, failures = (index, frame), self._failures
            if pending and index == pending[0]:
                yield self._decoded(pending.popleft(), index, frame, failed=False)
        if held is None and pending:
            codec = self._stream.codec_context
            if codec.width and codec.height:  # what the frames state, which may be more than the container does
                check_size(codec.width, codec.height, self._path)
            raise UnreadableError(f"{name_of(self._path)}: not one frame can be decoded")
        while held and pending:
            yield self._decoded(pending.popleft(), *held, failed=self._failures > failures)

    def _decoded(self, index: int, shown: int, frame: VideoFrame, *, failed: bool) -> Decoded:
        """With stored times a missing frame is a loss; without them only a decoder's failure is (see ``clocks``)."""
        lost = index != shown and (self._index.clock == "pts" or failed)
        return Decoded(index, shown, self._upright(frame), lost)

    def _upright(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        check_size(frame.width, frame.height, self._path)
        rgb = rgb_from_frame(frame)
        turns = round(frame.rotation / 90) % 4  # counter-clockwise, like FFmpeg's display matrix
        return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb

    def _frames_towards(self, pending: deque[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Decode (index, frame) in order of presentation while ``pending`` holds indices; seek where that pays."""
        wanted = set(self._index.stamps[list(pending)].tolist())
        packets: Iterator[Packet[VideoStream]] = iter(())
        place, target, last = -1, -1, -1  # of the packet read last; the index sought for; the index given last
        while pending:
            if pending[0] != target:
                target = pending[0]
                key = self._index.keyframe_before(target) if self._may_seek else 0
                if place < 0 or key > place + MIN_SKIPPED_PACKETS:
                    packets, place = self._packets_from(key)
            packet = next(packets, None)
            if packet is not None:
                place += 1
                if packet.size == 0:
                    continue  # AVI: nothing new is shown; to the decoder it would mean the end
                if self._index.clock == "pts":  # a frame that no other refers to is decoded only when it is wanted
                    self._stream.codec_context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            for frame in self._frames_from(packet):
                index = self._index_of(frame, last)
                if index is not None:
                    last = index
                    yield index, frame
            if packet is None:
                return

    def _packets_from(self, key: int) -> tuple[Iterator[Packet[VideoStream]], int]:
        """Packets from the keyframe at place ``key`` on, or from the start if the container cannot seek there."""
        # a seek in a transport stream may end behind its target: then the keyframe before leads to it
        for stamp in self._index.stamps_towards(key) if self._may_seek else []:
            try:
                self._container.seek(stamp, stream=self._stream)
            except av.FFmpegError as error:
                logger.debug("%s: no seek to packet %d: %s", name_of(self._path), key, error)
                continue
            packets = self._packets()
            first = next(packets, None)
            landed = self._index.place_of(first) if first is not None else None
            if first is not None and landed is not None and landed <= key:
                return chain((first,), packets), landed - 1
            logger.debug("%s: a seek to packet %d led to %s", name_of(self._path), key, landed)
        self._may_seek = self._may_seek and key == 0
        self._container.close()
        self._container, self._stream = self._open()
        return self._packets(), -1

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """Packets of the stream, without the empty one that ends it."""
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt and self._index.clock != "count" and self._index.place_of(packet) is None:
                    continue  # what a cut left of the last packet
                if packet.size or packet.dts is not None:
                    yield packet
        except av.FFmpegError as error:
            self._failures += 1
            logger.debug("%s: the container ends early: %s", name_of(self._path), error)

    def _frames_from(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        """Decode one packet, or drain the decoder."""
        try:
            return self._stream.codec_context.decode(packet)
        except av.FFmpegError as error:
            self._failures += 1
            logger.debug("%s: a packet cannot be decoded: %s", name_of(self._path), error)
            return []

    def _index_of(self, frame: VideoFrame, last: int) -> int | None:
        """Place of a decoded frame on the timeline; ``last`` is that of the frame before it, -1 for none."""
        stamps = self._index.stamps
        if self._index.clock == "pts":
            return None if frame.pts is None else max(0, int(np.searchsorted(stamps, frame.pts, side="right")) - 1)
        if self._index.clock == "count" or frame.dts is None:  # frames that are drained at the end carry no dts
            return min(last + 1, len(stamps) - 1)
        # the decoder holds back reorder_depth frames: this one came out when the packet with frame.dts went in
        return max(0, int(np.searchsorted(stamps, frame.dts)) - self._stream.codec_context.reorder_depth)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._container.close()


def rgb_from_frame(frame: VideoFrame) -> npt.NDArray[np.uint8]:
    """Pixels ``uint8 (H, W, 3)``, the same on every processor."""
    return np.asarray(frame.to_ndarray(format="rgb24", interpolation=SAME_EVERYWHERE, threads=1), np.uint8)
