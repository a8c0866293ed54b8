"""Which packet of a video is shown when.

Three clocks tell it:

    pts     the container stores presentation times (MP4, MKV, TS, …)
    dts     AVI stores none: frames are shown at a constant rate in the order in which the decoder gives them out, and a
            packet without a picture keeps the frame before it on screen for one more step
    count   a stream without usable times (MPEG program streams): frame number / rate. Also one whose recorder set its
            clock, or of files laid end to end: the frames follow each other as they are stored, and a step that no
            clock makes counts as the usual one
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from vidrisk.frames.source import Timeline

Clock = Literal["pts", "dts", "count"]
Integers = npt.NDArray[np.int64]
# Where a container states no rate at all.
FALLBACK_RATE = Fraction(25)
# Containers whose presentation times are guesses of the demuxer; a program stream's decoding times are guesses too.
GUESSED_PTS = ("avi", "mpeg")
# The most frames that H.264 and MPEG-4 may store ahead of the frames shown before them.
MAX_REORDERED = 16
# A clock that went back may have gone ahead too: then a longer pause between two frames is none.
MAX_PAUSE_S = 10
# FFmpeg's own mark of a packet without a time.
NO_STAMP = -2**63


@dataclass(frozen=True, eq=False)
class PacketTable:
    """Packets of one stream, in its order: int64 (N,) each in its time base, and bool (N,)."""

    pts: Integers
    dts: Integers
    durations: Integers
    is_key: npt.NDArray[np.bool_]
    is_shown: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PacketIndex:
    """Where to find the frames of a timeline in the stream.

    Attributes:
        stamps: one per timeline entry, sorted: pts or dts in the stream's time base, or the frame's number.
        key_stamps: of the keyframes, sorted.
        key_places: place in the stream, counted in packets, of the last keyframe whose stamp is not above; sorted.
        packet_stamps: of all packets, sorted; packets that show nothing are among them.
        packet_places: place in the stream of each of them.
    """

    clock: Clock
    timeline: Timeline
    stamps: Integers
    key_stamps: Integers
    key_places: Integers
    packet_stamps: Integers
    packet_places: Integers

    def place_of(self, packet: Packet[VideoStream]) -> int | None:
        """Place in the stream of a packet that was just read; None when its stamp is not known."""
        stamp = packet.pts if self.clock == "pts" else packet.dts
        if stamp is None or self.clock == "count":
            return None
        at = int(np.searchsorted(self.packet_stamps, stamp))
        known = at < len(self.packet_stamps) and self.packet_stamps[at] == stamp
        return int(self.packet_places[at]) if known else None

    def keyframe_before(self, index: int) -> int:
        """Place in the stream of the last keyframe from which frame ``index`` can be decoded."""
        if self.clock == "dts":  # a keyframe may be shown that many places later than it is stored
            index = max(0, index - MAX_REORDERED)
        keys = int(np.searchsorted(self.key_stamps, self.stamps[index], side="right"))
        return int(self.key_places[keys - 1]) if keys else 0

    def stamps_towards(self, place: int) -> list[int]:
        """Stamps to seek to for the packet at ``place``: that of the last keyframe up to it, then of the one before."""
        keys = int(np.searchsorted(self.key_places, place, side="right"))
        return [int(stamp) for stamp in self.key_stamps[max(0, keys - 2):keys][::-1]]


def index_from_packets(packets: PacketTable, container: str, stream: VideoStream) -> PacketIndex:
    """Read the first clock that the packets of a stream bear out. ``container`` is FFmpeg's name of the format."""
    return (_index_by_pts(packets, container, stream) or _index_by_dts(packets, container, stream)
            or _index_by_count(packets, container, stream))


def _index_by_pts(packets: PacketTable, container: str, stream: VideoStream) -> PacketIndex | None:
    if container in GUESSED_PTS:
        return None
    pts, dts = packets.pts, packets.dts
    places = np.argsort(pts, kind="stable")
    sorted_pts = pts[places]
    if sorted_pts[0] == NO_STAMP or (sorted_pts[1:] == sorted_pts[:-1]).any():
        return None
    known_dts = dts[dts != NO_STAMP]
    # a time that is wrong, or a clock that was set back, puts frames where no decoder gives them out
    if (known_dts[1:] < known_dts[:-1]).any() or np.abs(places - np.arange(len(pts))).max() > MAX_REORDERED:
        return None
    keys = np.flatnonzero(packets.is_key)
    # Frames before the first keyframe cannot be decoded (a recording that starts in mid-stream).
    first = int(keys[0]) if len(keys) else 0
    first_stamp = pts[first] if len(keys) else sorted_pts[0]
    shown = packets.is_shown[places] & (places >= first) & (sorted_pts >= first_stamp)
    if not shown.any():
        return None
    stamps = sorted_pts if shown.all() else sorted_pts[shown]
    last_duration = int(packets.durations[places[np.flatnonzero(shown)[-1]]])
    keys = keys[np.argsort(pts[keys], kind="stable")]
    return PacketIndex("pts", _timeline_from_stamps(stamps, last_duration, stream), stamps, pts[keys],
                       np.maximum.accumulate(keys), sorted_pts, places)


def _index_by_dts(packets: PacketTable, container: str, stream: VideoStream) -> PacketIndex | None:
    dts = packets.dts.copy()  # it is kept, and the table is not
    if container == "mpeg" or (dts == NO_STAMP).any() or (dts[1:] <= dts[:-1]).any():
        return None
    keys = np.flatnonzero(packets.is_key)
    return PacketIndex("dts", _timeline_from_stamps(dts, int(packets.durations[-1]), stream), dts, dts[keys], keys, dts,
                       np.arange(len(dts)))


def _timeline_from_stamps(stamps: Integers, last_duration: int, stream: VideoStream) -> Timeline:
    base = base_of(stream)
    last_duration = last_duration or _usual_step(np.diff(stamps), stream)
    end_s = float((int(stamps[-1]) - int(stamps[0]) + max(1, last_duration)) * base)
    return Timeline(_seconds(stamps - stamps[0], base), end_s, end_s)


def _index_by_count(packets: PacketTable, container: str, stream: VideoStream) -> PacketIndex:
    count, dts = len(packets.dts), packets.dts
    if container == "mpeg" or (dts == NO_STAMP).any():
        rate = float(rate_of(stream))
        times_s, end_s = np.arange(count, dtype=np.float64) / rate, count / rate
    else:
        base = base_of(stream)
        steps = np.diff(dts)
        is_sound = (dts[1:] > dts[:-1]) & (steps > 0) & (steps <= max(1, int(MAX_PAUSE_S / base)))
        usual = _usual_step(steps[is_sound], stream)
        times_s = _seconds(np.concatenate(([0], np.cumsum(np.where(is_sound, steps, usual), dtype=np.float64))), base)
        end_s = float(times_s[-1]) + float(usual * base)
    nothing = np.zeros(0, np.int64)
    return PacketIndex("count", Timeline(times_s, end_s, end_s), np.arange(count), nothing, nothing, nothing, nothing)


def _seconds(ticks: Integers | npt.NDArray[np.float64], base: Fraction) -> npt.NDArray[np.float64]:
    """Exact integers before the one division, so that equal moments give equal floats."""
    return ticks * base.numerator / base.denominator


def _usual_step(steps: Integers, stream: VideoStream) -> int:
    step = int(np.median(steps)) if len(steps) else 0
    return step or max(1, round(1 / (rate_of(stream) * base_of(stream))))


def base_of(stream: Stream) -> Fraction:
    return stream.time_base or Fraction(1)


def rate_of(stream: VideoStream) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate or FALLBACK_RATE
    return rate if rate > 0 else FALLBACK_RATE
