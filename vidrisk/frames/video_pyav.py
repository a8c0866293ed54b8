"""Video decoding with PyAV (FFmpeg's libraries), the decoder that is always available."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice, pairwise
from pathlib import Path
from types import TracebackType
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from typing_extensions import Self

from vidrisk.frames.boxes import read_stated_frames
from vidrisk.frames.index import (
    PacketIndex,
    PacketTable,
    Places,
    has_rising_pts,
    index_from_packets,
    order_from_packets,
    with_failed,
)
from vidrisk.frames.media import check_duration, check_frame_count, check_size, name_of
from vidrisk.frames.opening import open_video, streams_by_preference
from vidrisk.frames.packets import duration_from_header_s, read_packets
from vidrisk.frames.rgb import orientation_of, rgb_from_frame, upright
from vidrisk.frames.source import Decoded, Timeline
from vidrisk.runtimes.contract.errors import UnreadableError

logger = logging.getLogger(__name__)

# A seek discards the decoder's state; it saves time if it skips at least this many packets.
MIN_SKIPPED_PACKETS = 8
# An encoder that reorders frames does so within the first frames of this number.
REORDERED_WITHIN = 64


class PyAVSource:
    """An open video. One thread decodes: several files at once use the cores better than several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failures = 0
        self._may_seek = self._may_skip = False
        self._notes: dict[str, None] = {}  # an ordered set
        check_frame_count(read_stated_frames(path), path)
        self._container, self._stream = open_video(path)
        try:
            self._index = self._build_index()
        except BaseException:
            self._container.close()
            raise
        self._may_seek = not self._index.is_repaired
        if self._index.note:
            self._notes[self._index.note] = None

    def _reopen(self, number: int | None = None) -> None:
        """Restart from the first packet, with the same stream unless ``number`` is given."""
        number = self._stream.index if number is None else number
        self._container.close()
        self._container, self._stream = open_video(self._path, number)

    def _build_index(self) -> PacketIndex:
        numbers = [stream.index for stream in streams_by_preference(self._container)]
        for number in (*numbers, numbers[0]):  # a stream of one frame counts only if there is no other
            if self._stream.index != number:
                self._reopen(number)
            contents = read_packets(self._container, self._stream, self._path)
            if len(numbers) == 1 or (contents and len(contents.packets.dts) > 1):
                break
        index = None
        if contents:
            packets, container = contents.packets, self._container.format.name
            self._may_skip = not packets.has_parts
            depth = self._stream.codec_context.reorder_depth
            order = order_from_packets(packets, container, depth)
            if order == "sorted" and depth and has_rising_pts(packets) and self._is_reordered():
                order = "decoded"
            decoded = self._decode_places(packets) if order == "decoded" else None
            index = index_from_packets(packets, container, self._stream, order, decoded)
        if contents is None or index is None:
            raise UnreadableError(f"{name_of(self._path)} has a video stream without frames")
        check_duration(index.timeline.readable_s, self._path)
        stated_s = duration_from_header_s(index, self._container, self._stream, contents)
        return replace(index, timeline=replace(index.timeline, duration_s=stated_s))

    def _decode_places(self, packets: PacketTable) -> Places:
        """Decode the stream once; return the places of the packets whose frames are output, in that order."""
        places = self._decode_first(len(packets.dts))  # the remains of a cut packet may follow
        if not places:
            raise UnreadableError(f"{name_of(self._path)}: no frame can be decoded")
        return with_failed(np.array(list(dict.fromkeys(places)), np.int32), packets if self._failures else None)

    def _is_reordered(self) -> bool:
        """Return whether the decoder outputs the first frames in another order than that of their packets."""
        places = self._decode_first(REORDERED_WITHIN)
        self._failures = 0
        return any(later < earlier for earlier, later in pairwise(places))

    def _decode_first(self, count: int) -> list[int]:
        """Decode the first packets of the stream; return the place of each frame's packet."""
        self._reopen()
        self._stream.codec_context.open(strict=False)
        places: list[int] = []
        for place, packet in enumerate(islice(self._packets(), count)):
            packet.opaque = _mark(place)
            places += map(_place_of, self._frames_from(packet))
        return places + [_place_of(frame) for frame in self._frames_from(None)]

    @property
    def timeline(self) -> Timeline:
        return self._index.timeline

    @property
    def note(self) -> str:
        """See ``VideoSource.note``."""
        return "; ".join(self._notes)

    @property
    def kind(self) -> tuple[str, str]:
        """FFmpeg's names of the container and the codec."""
        return self._container.format.name, self._stream.codec_context.name

    @property
    def is_plain(self) -> bool:
        """Whether frames follow the stored times, one per packet, need no correction, and come from the only stream.

        Corrections are rotation, mirroring and dropped colour tags. Decodes the first frame.
        """
        index = self._index
        if index.order != "sorted" or index.is_repaired or not self._may_skip or len(self._container.streams.video) > 1:
            return False
        _, frame = next(self._frames_towards(deque((0,))), (0, None))
        return frame is not None and orientation_of(frame) == (False, False, False) and not rgb_from_frame(frame)[1]

    def keyframes(self) -> npt.NDArray[np.intp]:
        """See ``VideoSource.keyframes``."""
        index = self._index
        frames = index.frames[index.keyframes.at]
        return np.sort(frames[frames >= 0]).astype(np.intp)

    def frames_at(self, indices: Sequence[int]) -> Iterator[Decoded]:
        """See ``VideoSource.frames_at``. A frame is shown until the next one that can be decoded."""
        pending = deque(indices)
        held: tuple[int, VideoFrame] | None = None
        failures = 0
        for index, frame in self._frames_towards(pending):
            while pending and index > pending[0]:
                shown = held or (index, frame)
                yield self._make_decoded(
                    pending.popleft(), *shown, failed=held is not None and self._failures > failures
                )
            held, failures = (index, frame), self._failures
            if pending and index == pending[0]:
                yield self._make_decoded(pending.popleft(), index, frame, failed=False)
        if held is None and pending:
            codec = self._stream.codec_context
            if codec.width and codec.height:  # as the frames state, which may exceed the container's values
                check_size(codec.width, codec.height, self._path)
            raise UnreadableError(f"{name_of(self._path)}: no frame can be decoded")
        while held and pending:
            yield self._make_decoded(pending.popleft(), *held, failed=self._failures > failures)

    def _make_decoded(self, index: int, shown: int, frame: VideoFrame, *, failed: bool) -> Decoded:
        """Convert a frame.

        If every frame has a packet, a missing one is lost; in the order ``slots`` only a decoder failure is a loss (see
        ``index``).
        """
        check_size(frame.width, frame.height, self._path)
        rgb, note = rgb_from_frame(frame)
        if note:
            self._notes[note] = None
        lost = index != shown and (self._index.order != "slots" or failed)
        return Decoded(index, shown, upright(rgb, frame), lost)

    def _frames_towards(self, pending: deque[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Decode (index, frame) in presentation order while ``pending`` is not empty; seek if that saves time."""
        wanted = set(self._index.places[list(pending)].tolist())
        may_skip = self._may_skip and self._index.order != "slots"
        packets: Iterator[Packet[VideoStream]] = iter(())
        place, target, last = -1, -1, -1  # place of the last packet read; index sought; last index yielded
        while pending:
            if pending[0] != target:
                target = pending[0]
                key = self._index.keyframe_before(target) if self._may_seek else 0
                if place < 0 or key > place + MIN_SKIPPED_PACKETS:
                    packets, place = self._packets_from(key)
            packet = next(packets, None)
            place += packet is not None
            if place >= len(self._index.frames):  # the remains of a cut packet
                packet = None
            if packet is not None:
                if packet.size == 0:
                    continue  # AVI: repeats the last frame; the decoder would take it as the end
                packet.opaque = _mark(place)
                if may_skip:  # decode frames that no other refers to only if wanted
                    self._stream.codec_context.skip_frame = "DEFAULT" if place in wanted else "NONREF"
            for frame in self._frames_from(packet):
                index = self._index_of(frame, None if packet is None else place, last)
                if index is not None:
                    last = index
                    yield index, frame
            if packet is None:
                return

    def _packets_from(self, key: int) -> tuple[Iterator[Packet[VideoStream]], int]:
        """Return packets from the keyframe at place ``key`` on, or from the start if seeking there fails."""
        # a seek in a transport stream may end after its target: then seek to the previous keyframe
        for stamp in self._index.keyframes.stamps_towards(key) if self._may_seek else []:
            try:
                self._container.seek(stamp, stream=self._stream)
            except av.FFmpegError as error:
                logger.debug("%s: no seek to packet %d: %s", name_of(self._path), key, error)
                continue
            packets = self._packets()
            first = next((packet for packet in packets if packet.is_keyframe), None)
            landed = self._index.keyframes.place_of(first) if first is not None else None
            if first is not None and landed is not None and landed <= key:
                self._stream.codec_context.open(strict=False)
                return chain((first,), packets), landed - 1
            logger.debug("%s: a seek to packet %d led to %s", name_of(self._path), key, landed)
        self._may_seek = self._may_seek and key == 0
        self._reopen()
        # some decoders read ``skip_frame`` only when opened, so open before it is set
        self._stream.codec_context.open(strict=False)
        return self._packets(), -1

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """Yield the packets of the stream, without the empty one that ends it."""
        try:
            for packet in self._container.demux(self._stream):
                if packet.size or packet.pts is not None or packet.dts is not None:
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

    def _index_of(self, frame: VideoFrame, place: int | None, last: int) -> int | None:
        """Return the index of a decoded frame on the timeline.

        Args:
            frame: the decoded frame.
            place: place of the packet that was last sent to the decoder; None while it is drained.
            last: result for the previous frame; -1 if there is none.
        """
        index = self._index
        if index.order != "slots":
            number = int(index.frames[_place_of(frame)])
            return number if number >= 0 else None
        if place is None:
            return min(last + 1, len(index.frames) - 1)
        # the decoder delays its output by reorder_depth frames
        return max(0, place - self._stream.codec_context.reorder_depth)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._container.close()


def _mark(place: int) -> tuple[int]:
    """Return the object that a packet carries through the decoder.

    PyAV stores it by identity, so every packet needs its own object.
    """
    return (place,)


def _place_of(frame: VideoFrame) -> int:
    """Return the place of the packet that a frame was decoded from."""
    (place,) = cast("tuple[int]", frame.opaque)
    return place
