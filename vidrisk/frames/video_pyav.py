"""Video frames through PyAV (FFmpeg's libraries): the decoder that is always there."""

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

from vidrisk.frames.boxes import stated_frames
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
from vidrisk.frames.packets import read_packets, stated_duration_s
from vidrisk.frames.rgb import orientation_of, rgb_from_frame, upright
from vidrisk.frames.source import Decoded, Timeline
from vidrisk.runtimes.contract.errors import UnreadableError

logger = logging.getLogger(__name__)

# A seek throws the decoder's state away; it pays when it skips at least this many packets.
MIN_SKIPPED_PACKETS = 8
# An encoder that reorders frames does so among the first of this many.
REORDERED_WITHIN = 64


class PyAVSource:
    """An open video. One thread decodes: several files at once use the cores better than several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failures = 0
        self._may_seek = self._may_skip = False
        self._notes: dict[str, None] = {}  # each once, in order
        check_frame_count(stated_frames(path), path)
        self._container, self._stream = open_video(path)
        try:
            self._index = self._indexed()
        except BaseException:
            self._container.close()
            raise
        self._may_seek = not self._index.is_repaired
        if self._index.note:
            self._notes[self._index.note] = None

    def _reopen(self, number: int | None = None) -> None:
        """Start again from the first packet, with the same stream if no other is asked for."""
        number = self._stream.index if number is None else number
        self._container.close()
        self._container, self._stream = open_video(self._path, number)

    def _indexed(self) -> PacketIndex:
        numbers = [stream.index for stream in streams_by_preference(self._container)]
        for number in (*numbers, numbers[0]):  # a stream of one frame is no clip while there is another
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
            decoded = self._decoded_places(packets) if order == "decoded" else None
            index = index_from_packets(packets, container, self._stream, order, decoded)
        if contents is None or index is None:
            raise UnreadableError(f"{name_of(self._path)} has a video stream without frames")
        check_duration(index.timeline.readable_s, self._path)
        stated_s = stated_duration_s(index, self._container, self._stream, contents)
        return replace(index, timeline=replace(index.timeline, duration_s=stated_s))

    def _decoded_places(self, packets: PacketTable) -> Places:
        """Decode the stream once, for the places of the packets whose frames are given out, in that order."""
        places = self._given_out(len(packets.dts))  # behind these there may be what a cut left of the last packet
        if not places:
            raise UnreadableError(f"{name_of(self._path)}: not one frame can be decoded")
        return with_failed(np.array(list(dict.fromkeys(places)), np.int32), packets if self._failures else None)

    def _is_reordered(self) -> bool:
        """Whether the decoder gives the first frames out in another order than that of their packets."""
        places = self._given_out(REORDERED_WITHIN)
        self._failures = 0
        return any(later < earlier for earlier, later in pairwise(places))

    def _given_out(self, count: int) -> list[int]:
        """Decode the first packets of the stream, for the place of each frame's packet."""
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
        """(container, codec) as FFmpeg calls them."""
        return self._container.format.name, self._stream.codec_context.name

    @property
    def is_plain(self) -> bool:
        """Whether frames come in the order of stored times, one of every packet, shown as they are stored, and there is no other
        stream to be mistaken for this one. Decodes the first frame.
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
        """Where every frame has a packet a missing one is a loss; elsewhere only a decoder's failure is (see ``index``)."""
        check_size(frame.width, frame.height, self._path)
        rgb, note = rgb_from_frame(frame)
        if note:
            self._notes[note] = None
        lost = index != shown and (self._index.order != "slots" or failed)
        return Decoded(index, shown, upright(rgb, frame), lost)

    def _frames_towards(self, pending: deque[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Decode (index, frame) in order of presentation while ``pending`` holds indices; seek where that pays."""
        wanted = set(self._index.places[list(pending)].tolist())
        may_skip = self._may_skip and self._index.order != "slots"
        packets: Iterator[Packet[VideoStream]] = iter(())
        place, target, last = -1, -1, -1  # of the packet read last; the index sought for; the index given last
        while pending:
            if pending[0] != target:
                target = pending[0]
                key = self._index.keyframe_before(target) if self._may_seek else 0
                if place < 0 or key > place + MIN_SKIPPED_PACKETS:
                    packets, place = self._packets_from(key)
            packet = next(packets, None)
            place += packet is not None
            if place >= len(self._index.frames):  # what a cut left of the last packet
                packet = None
            if packet is not None:
                if packet.size == 0:
                    continue  # AVI: nothing new is shown; to the decoder it would mean the end
                packet.opaque = _mark(place)
                if may_skip:  # a frame that no other refers to is decoded only when it is wanted
                    self._stream.codec_context.skip_frame = "DEFAULT" if place in wanted else "NONREF"
            for frame in self._frames_from(packet):
                index = self._index_of(frame, None if packet is None else place, last)
                if index is not None:
                    last = index
                    yield index, frame
            if packet is None:
                return

    def _packets_from(self, key: int) -> tuple[Iterator[Packet[VideoStream]], int]:
        """Packets from the keyframe at place ``key`` on, or from the start if the container cannot seek there."""
        # a seek in a transport stream may end behind its target: then the keyframe before leads to it
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
        # some decoders fix ``skip_frame`` when they are opened, so that comes before it is ever set
        self._stream.codec_context.open(strict=False)
        return self._packets(), -1

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """Packets of the stream, without the empty one that ends it."""
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
        """Place of a decoded frame on the timeline.

        Args:
            place: of the packet that went into the decoder last; None when it is drained.
            last: what this gave for the frame before, -1 for none.
        """
        index = self._index
        if index.order != "slots":
            number = int(index.frames[_place_of(frame)])
            return number if number >= 0 else None
        if place is None:
            return min(last + 1, len(index.frames) - 1)
        # the decoder holds back reorder_depth frames
        return max(0, place - self._stream.codec_context.reorder_depth)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._container.close()


def _mark(place: int) -> tuple[int]:
    """What a packet carries through the decoder. PyAV keeps it by its identity, so every packet has an object of its own."""
    return (place,)


def _place_of(frame: VideoFrame) -> int:
    """The place of the packet that a frame was made of."""
    (place,) = cast("tuple[int]", frame.opaque)
    return place
