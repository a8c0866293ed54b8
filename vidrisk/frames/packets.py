"""The packets of a video, read without decoding one.

Hours of video are a million packets, so what is kept of them lies in arrays.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from vidrisk.frames.clocks import NO_STAMP, PacketIndex, PacketTable, base_of, index_from_packets, rate_of
from vidrisk.frames.media import MAX_DURATION_S, check_duration, check_frame_count

# A file is taken as cut when more than this is missing from what its header states.
CUT_S = 0.5


@dataclass(eq=False)
class _Packets:
    """What is kept of a stream's packets while they are read: 26 bytes of each."""

    pts: array[int] = field(default_factory=lambda: array("q"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    durations: array[int] = field(default_factory=lambda: array("q"))
    is_key: bytearray = field(default_factory=bytearray)
    is_shown: bytearray = field(default_factory=bytearray)

    def append(self, packet: Packet[Stream]) -> None:
        pts, dts = packet.pts, packet.dts
        self.pts.append(NO_STAMP if pts is None else pts)
        self.dts.append(NO_STAMP if dts is None else dts)
        self.durations.append(packet.duration or 0)
        self.is_key.append(packet.is_keyframe)
        self.is_shown.append(not packet.is_discard)

    def __len__(self) -> int:
        return len(self.is_key)

    def table(self, count: int) -> PacketTable:
        """The first ``count`` packets."""
        pts, dts, durations = (np.frombuffer(column, np.int64, count) for column in (self.pts, self.dts, self.durations))
        is_key, is_shown = (np.frombuffer(column, np.bool_, count) for column in (self.is_key, self.is_shown))
        return PacketTable(pts, dts, durations, is_key, is_shown)


def index_from_container(container: InputContainer, stream: VideoStream, path: Path) -> PacketIndex | None:
    """Read all packets of an open container; None when the stream has none.

    Raises:
        UnreadableError: too many frames, or too long (too_large).
    """
    packets, whole = _Packets(), 0
    ends: dict[int, int] = {}  # of each stream, in its own time base
    try:
        for packet in container.demux():
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is None and packet.size == 0:
                continue  # the end of a stream, not a packet
            number = packet.stream.index
            if number == stream.index:
                packets.append(packet)
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
    index = index_from_packets(packets.table(whole), container.format.name, stream)
    check_duration(index.timeline.readable_s, path)
    end_s = max((float(end * base_of(container.streams[number])) for number, end in ends.items()), default=0.0)
    stated_s = _stated_duration_s(index, container, stream, whole, end_s)
    if not CUT_S < stated_s - index.timeline.readable_s <= MAX_DURATION_S:
        return index
    return replace(index, timeline=replace(index.timeline, duration_s=stated_s))


def _stated_duration_s(index: PacketIndex, container: InputContainer, stream: VideoStream, packets: int, end_s: float) -> float:
    """What the header states, which is more than can be read when packets are missing at the end; 0 when it states nothing.

    MP4 and AVI state the number of frames, of which an MP4's edit list may show a part only. Matroska states the
    duration of all streams, so it is compared with the end of all of them, unless their clock jumped. Other containers
    state nothing that survives a cut. What no file may last is no statement: recorders that lose power leave anything.
    """
    if stream.frames > packets:
        stated_s = float(stream.frames / rate_of(stream))
        if stream.duration and "mp4" in container.format.name:
            return min(stated_s, float(stream.duration * base_of(stream)))
        return stated_s
    if "matroska" in container.format.name and container.duration and index.clock != "count":
        return index.timeline.readable_s + (container.duration / av.time_base - end_s)
    return 0.0
