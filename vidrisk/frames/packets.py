"""The packets of a video, read without decoding one.

Hours of video are a million packets, so what is kept of them lies in arrays.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from vidrisk.frames.clocks import NO_STAMP, Integers
from vidrisk.frames.coding import roles_from_codec
from vidrisk.frames.index import PacketIndex, PacketTable, base_of, rate_of
from vidrisk.frames.media import MAX_DURATION_S, check_frame_count

# A file is taken as cut when more than this is missing from what its header states.
CUT_S = 0.5
# Containers whose clock begins again when it has run out of bits. A clock that was set back by more than a minute looks
# so to FFmpeg, which then adds the clock's range.
CLOCK_BITS = {"mpegts": 33, "mpeg": 33, "flv": 32, "asf": 32}


@dataclass(eq=False)
class _Packets:
    """What is kept of a stream's packets while they are read: 26 bytes of each, and 16 more of a keyframe."""

    pts: array[int] = field(default_factory=lambda: array("q"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    durations: array[int] = field(default_factory=lambda: array("q"))
    is_key: bytearray = field(default_factory=bytearray)
    is_shown: bytearray = field(default_factory=bytearray)
    key_offsets: array[int] = field(default_factory=lambda: array("q"))
    key_sizes: array[int] = field(default_factory=lambda: array("q"))
    has_parts: bool = False

    def append(self, packet: Packet[Stream], *, is_shown: bool, is_key: bool) -> None:
        pts, dts = packet.pts, packet.dts
        self.pts.append(NO_STAMP if pts is None else pts)
        self.dts.append(NO_STAMP if dts is None else dts)
        self.durations.append(packet.duration or 0)
        self.is_key.append(is_key)
        self.is_shown.append(is_shown)
        if is_key:
            self.key_offsets.append(-1 if packet.pos is None else packet.pos)
            self.key_sizes.append(packet.size)

    def __len__(self) -> int:
        return len(self.is_key)

    def table(self, count: int, clock_bits: int | None) -> PacketTable:
        """The first ``count`` packets."""
        pts, dts, durations = (
            np.frombuffer(column, np.int64, count) for column in (self.pts, self.dts, self.durations)
        )
        if clock_bits:
            pts, dts = without_false_wraps(pts, dts, 2**clock_bits)
        is_key, is_shown = (np.frombuffer(column, np.bool_, count) for column in (self.is_key, self.is_shown))
        keys = int(np.count_nonzero(is_key))
        offsets, sizes = (np.array(column[:keys], np.int64) for column in (self.key_offsets, self.key_sizes))
        return PacketTable(pts, dts, durations, is_key, is_shown, offsets, sizes, self.has_parts)


@dataclass(frozen=True, eq=False)
class Contents:
    """What a container holds.

    Attributes:
        packets: of one of its streams.
        end_s: where the last of all its streams ends.
    """

    packets: PacketTable
    end_s: float


def read_packets(container: InputContainer, stream: VideoStream, path: Path) -> Contents | None:
    """Read all packets of an open container; None when the stream has none.

    Raises:
        UnreadableError: too many frames (too_large).
    """
    packets, whole = _Packets(), 0
    role_of = roles_from_codec(stream.codec_context)
    ends: dict[int, int] = {}  # of each stream, in its own time base
    try:
        for packet in container.demux():
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is None and packet.size == 0:
                continue  # the end of a stream, not a packet
            number = packet.stream.index
            if number == stream.index:
                is_frame, is_key = role_of(packet) if role_of else (True, packet.is_keyframe)
                packets.has_parts = packets.has_parts or not is_frame
                packets.append(packet, is_shown=is_frame and not packet.is_discard, is_key=is_key)
                check_frame_count(len(packets), path)
                if not packet.is_corrupt:
                    whole = len(packets)  # what a cut left of the last packet does not count
            if stamp is not None:
                end = stamp + (packet.duration or 0)
                ends[number] = max(ends.get(number, end), end)
    except av.FFmpegError:
        pass  # a damaged file: what was read so far is its timeline, and the header tells what is missing
    if not whole:
        return None
    end_s = max((float(end * base_of(container.streams[number])) for number, end in ends.items()), default=0.0)
    return Contents(packets.table(whole, CLOCK_BITS.get(container.format.name)), end_s)


def without_false_wraps(pts: Integers, dts: Integers, clock_range: int) -> tuple[Integers, Integers]:
    """Take away what FFmpeg adds to a clock that was set back: a step of more than half of its range is one the other way."""
    stamps = np.where(dts != NO_STAMP, dts, pts)
    known = np.flatnonzero(stamps != NO_STAMP)
    turns = np.zeros(len(stamps), np.int64)
    turns[known[1:]] = _nearest(np.diff(stamps[known]), clock_range)
    if not turns.any():
        return pts, dts
    turns = np.cumsum(turns)
    has_pts, has_dts = pts != NO_STAMP, dts != NO_STAMP
    dts = np.where(has_dts, dts - turns * clock_range, NO_STAMP)
    pts = np.where(has_pts, pts - turns * clock_range, NO_STAMP)
    both = has_pts & has_dts
    pts[both] -= (
        _nearest(pts[both] - dts[both], clock_range) * clock_range
    )  # one of them may have been on the other side
    return pts, dts


def _nearest(steps: Integers, clock_range: int) -> Integers:
    """How many whole ranges steps come nearest to."""
    return (steps + clock_range // 2) // clock_range


def stated_duration_s(index: PacketIndex, container: InputContainer, stream: VideoStream, contents: Contents) -> float:
    """What the header states where packets are missing at the end, else what can be read.

    MP4 and AVI state the number of frames, of which an MP4's edit list may show a part only. Matroska states the
    duration of all streams, so it is compared with the end of all of them, unless their clock was repaired. Other
    containers state nothing that survives a cut. What no file may last is no statement: recorders that lose power leave
    anything.
    """
    readable_s = index.timeline.readable_s
    stated_s = 0.0
    if stream.frames > len(contents.packets.dts):
        stated_s = float(stream.frames / rate_of(stream))
        if stream.duration and "mp4" in container.format.name:
            stated_s = min(stated_s, float(stream.duration * base_of(stream)))
    elif "matroska" in container.format.name and container.duration and not index.is_repaired:
        stated_s = readable_s + (container.duration / av.time_base - contents.end_s)
    return stated_s if CUT_S < stated_s - readable_s <= MAX_DURATION_S else readable_s
