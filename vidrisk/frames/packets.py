"""Reading of a video's packets, without decoding any.

Hours of video have about a million packets, so their data is kept in arrays.
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

# A file counts as cut if more than this is missing from the duration in its header.
CUT_S = 0.5
# Containers whose clock wraps around. FFmpeg mistakes a clock that was set back by more than a minute for a wrap, and
# adds the clock's range.
CLOCK_BITS = {"mpegts": 33, "mpeg": 33, "flv": 32, "asf": 32}


@dataclass(eq=False)
class _Packets:
    """The data of a stream's packets while they are read: 26 bytes per packet, and 16 more per keyframe."""

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
        """Return the table of the first ``count`` packets."""
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
        packets: packets of one of its streams.
        end_s: latest end of all its streams.
    """

    packets: PacketTable
    end_s: float


def read_packets(container: InputContainer, stream: VideoStream, path: Path) -> Contents | None:
    """Read all packets of an open container; return None if the stream has none.

    Raises:
        UnreadableError: too many frames (too_large).
    """
    packets, whole = _Packets(), 0
    role_of = roles_from_codec(stream.codec_context)
    ends: dict[int, int] = {}  # per stream, in its own time base
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
                    whole = len(packets)  # ignore the remains of a last packet that was cut
            if stamp is not None:
                end = stamp + (packet.duration or 0)
                ends[number] = max(ends.get(number, end), end)
    except av.FFmpegError:
        pass  # a damaged file: the packets read so far are its timeline; the header states what is missing
    if not whole:
        return None
    end_s = max((float(end * base_of(container.streams[number])) for number, end in ends.items()), default=0.0)
    return Contents(packets.table(whole, CLOCK_BITS.get(container.format.name)), end_s)


def without_false_wraps(pts: Integers, dts: Integers, clock_range: int) -> tuple[Integers, Integers]:
    """Undo the offsets that FFmpeg adds to a clock that was set back.

    A step of more than half of the clock's range is taken as a step in the other direction.
    """
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
    )  # one of them may have been on the other side of the wrap
    return pts, dts


def _nearest(steps: Integers, clock_range: int) -> Integers:
    """Return the number of whole clock ranges nearest to each step."""
    return (steps + clock_range // 2) // clock_range


def duration_from_header_s(
    index: PacketIndex, container: InputContainer, stream: VideoStream, contents: Contents
) -> float:
    """Return the duration stated in the header if packets are missing at the end, else the readable one.

    MP4 and AVI state the number of frames, of which an MP4's edit list may show only a part. Matroska states the
    duration of all streams, so it is compared with the end of all of them, unless their clock was repaired. Other
    containers state nothing that survives a cut. Durations above ``MAX_DURATION_S`` are ignored: recorders that lose
    power leave arbitrary values.
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
