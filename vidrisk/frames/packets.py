"""The timeline of a video, read from its packets without decoding one.

Three clocks tell which packet is shown when:

    pts     the container stores presentation times (MP4, MKV, TS, …)
    dts     AVI stores none: frames are shown at a constant rate in the order in which the decoder gives them out, and a
            packet without a picture keeps the frame before it on screen for one more step
    count   a stream without usable times (MPEG program streams, raw video): frame number / rate
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vidrisk.frames.source import Timeline

Clock = Literal["pts", "dts", "count"]
# Where a container states no rate at all.
FALLBACK_RATE = Fraction(25)
# Containers whose presentation times are guesses of the demuxer; a program stream's decoding times are guesses too.
GUESSED_PTS = ("avi", "mpeg")
# A file is taken as cut when more than this is missing from what its header states.
CUT_S = 0.5


@dataclass(frozen=True, eq=False)
class PacketIndex:
    """Where to find the frames of a timeline in the stream.

    Attributes:
        stamps: one per timeline entry, sorted: pts or dts in the stream's time base, or the frame's number.
        keyframes: (stamp, place in the stream), in stream order.
        places: stamp → place in the stream of its packet, counted in packets.
    """

    clock: Clock
    timeline: Timeline
    stamps: list[int]
    keyframes: list[tuple[int, int]]
    places: dict[int, int]

    def place_of(self, packet: Packet[VideoStream]) -> int | None:
        """Place in the stream of a packet that was just read; None when its stamp is not known."""
        stamp = packet.pts if self.clock == "pts" else packet.dts
        return None if stamp is None else self.places.get(stamp)


@dataclass(frozen=True)
class _Entry:
    pts: int | None
    dts: int | None
    duration: int
    is_key: bool
    is_shown: bool
    is_whole: bool


def index_from_container(container: InputContainer, stream: VideoStream) -> PacketIndex | None:
    """Read all packets of an open container; None when the stream has none."""
    entries: list[_Entry] = []
    end_s = 0.0
    try:
        for packet in container.demux():
            if packet.dts is None and packet.pts is None and packet.size == 0:
                continue  # the end of a stream, not a packet
            if packet.stream.index == stream.index:
                entries.append(_Entry(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe,
                                      not packet.is_discard, not packet.is_corrupt))
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None:
                end_s = max(end_s, float((stamp + (packet.duration or 0)) * packet.time_base))
    except av.FFmpegError:
        pass  # a damaged file: what was read so far is its timeline, and the header tells what is missing
    while entries and not entries[-1].is_whole:  # what a cut left of the last packet
        entries.pop()
    if not entries:
        return None
    index = (_index_by_pts(entries, container, stream) or _index_by_dts(entries, container, stream)
             or _index_by_count(entries, stream))
    return _with_stated_duration(index, container, stream, len(entries), end_s)


def _index_by_pts(entries: list[_Entry], container: InputContainer, stream: VideoStream) -> PacketIndex | None:
    if container.format.name in GUESSED_PTS:
        return None
    pts = [entry.pts for entry in entries if entry.pts is not None]
    if len(set(pts)) < len(entries):
        return None
    keyframes = [(stamp, place) for place, stamp in enumerate(pts) if entries[place].is_key]
    # Frames before the first keyframe cannot be decoded (a recording that starts in mid-stream).
    first = keyframes[0] if keyframes else (min(pts), 0)
    shown = {stamp: entry.duration for place, (stamp, entry) in enumerate(zip(pts, entries, strict=True))
             if entry.is_shown and place >= first[1] and stamp >= first[0]}
    if not shown:
        return None
    return _index_from_stamps("pts", shown, keyframes, {stamp: place for place, stamp in enumerate(pts)}, stream)


def _index_by_dts(entries: list[_Entry], container: InputContainer, stream: VideoStream) -> PacketIndex | None:
    dts = [entry.dts for entry in entries if entry.dts is not None]
    if container.format.name == "mpeg" or len(dts) < len(entries) or any(b <= a for a, b in pairwise(dts)):
        return None
    keyframes = [(stamp, place) for place, stamp in enumerate(dts) if entries[place].is_key]
    shown = {stamp: entry.duration for stamp, entry in zip(dts, entries, strict=True)}
    return _index_from_stamps("dts", shown, keyframes, {stamp: place for place, stamp in enumerate(dts)}, stream)


def _index_from_stamps(clock: Clock, shown: dict[int, int], keyframes: list[tuple[int, int]], places: dict[int, int],
                       stream: VideoStream) -> PacketIndex:
    """``shown``: stamp → duration, both in the stream's time base."""
    base = stream.time_base or Fraction(1)
    stamps = sorted(shown)
    last_duration = shown[stamps[-1]] or _usual_step(stamps) or round(1 / (_rate(stream) * base))
    # exact integers before the one division, so that equal moments give equal floats
    times_s = np.array([(stamp - stamps[0]) * base.numerator / base.denominator for stamp in stamps], np.float64)
    end_s = float((stamps[-1] - stamps[0] + max(1, last_duration)) * base)
    return PacketIndex(clock, Timeline(times_s, end_s, end_s), stamps, keyframes, places)


def _index_by_count(entries: list[_Entry], stream: VideoStream) -> PacketIndex:
    rate = float(_rate(stream))
    times_s = np.arange(len(entries), dtype=np.float64) / rate
    end_s = len(entries) / rate
    return PacketIndex("count", Timeline(times_s, end_s, end_s), list(range(len(entries))), [], {})


def _usual_step(stamps: list[int]) -> int:
    return int(np.median(np.diff(stamps))) if len(stamps) > 1 else 0


def _rate(stream: VideoStream) -> Fraction:
    return stream.average_rate or stream.guessed_rate or FALLBACK_RATE


def _with_stated_duration(index: PacketIndex, container: InputContainer, stream: VideoStream, packets: int,
                          end_s: float) -> PacketIndex:
    """Lengthen a timeline to what the header states, when packets are missing at the end.

    MP4 and AVI state the number of frames. Matroska states the duration of all streams, so it is compared with the end
    of all of them. Other containers state nothing that survives a cut.
    """
    timeline = index.timeline
    stated_s = 0.0
    if stream.frames > packets:
        stated_s = float(stream.frames / _rate(stream))
    elif "matroska" in container.format.name and container.duration:
        cut_s = container.duration / av.time_base - end_s
        stated_s = timeline.readable_s + cut_s if cut_s > CUT_S else 0.0
    if stated_s - timeline.readable_s <= CUT_S:
        return index
    whole = Timeline(timeline.times_s, stated_s, timeline.readable_s)
    return PacketIndex(index.clock, whole, index.stamps, index.keyframes, index.places)
