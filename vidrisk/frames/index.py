"""Index of a video's stored frames in presentation order.

A decoded frame is identified by the packet that it was decoded from: every packet carries its place in the stream
through the decoder (FFmpeg's ``copy_opaque``), so times may be missing, equal or wrong. The order of presentation is
determined in one of four ways:

    sorted      every frame has a presentation time and all differ: the order of these times. Nearly every file; also
                files concatenated end to end, in which the clock goes back at a keyframe
    stored      times are missing or shared, but never go back, and the decoder holds no frame back: the order of
                storage
    slots       AVI stores no presentation times: frames are shown at a constant rate in the order in which the
                decoder outputs them, and a packet without a picture keeps the previous frame on screen for one more
                step
    decoded     times are missing or wrong, and frames may be reordered: only the decoder determines the order, in one
                pass over the stream. Times that rise with the packets although frames are reordered (some writers of
                ASF, MXF, MP4) are decoding times

The first three need only the packets; the last decodes the whole stream, without converting its frames. Times come from
``clocks``.
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

from vidrisk.frames.clocks import NO_STAMP, Integers, Ticks, ticks_from_stamps
from vidrisk.frames.source import Timeline

Order = Literal["sorted", "stored", "slots", "decoded"]
Places = npt.NDArray[np.int32]
# For containers that state no rate at all.
FALLBACK_RATE = Fraction(25)
# Most frames that H.264 and MPEG-4 may store ahead of frames that are shown earlier.
MAX_REORDERED = 16
# Containers that store how long a frame is shown; for others FFmpeg derives it from the stream's rate.
STORED_DURATIONS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
# Containers in which FFmpeg seeks by decoding times.
SOUGHT_BY_DTS = ("mpegts", "mpeg")
SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


@dataclass(frozen=True, eq=False)
class PacketTable:
    """Packets of one stream, in stream order.

    Attributes:
        pts, dts, durations: int64 (P,), in the stream's time base.
        is_key: bool (P,).
        is_shown: bool (P,), whether the packet begins a frame that is shown.
        key_offsets, key_sizes: int64 (K,), position in the file (-1: unknown) and size in bytes of the keyframes'
            packets.
        has_parts: whether some packets are not frames of their own, but second fields, or hidden.
    """

    pts: Integers
    dts: Integers
    durations: Integers
    is_key: npt.NDArray[np.bool_]
    is_shown: npt.NDArray[np.bool_]
    key_offsets: Integers
    key_sizes: Integers
    has_parts: bool = False


@dataclass(frozen=True, eq=False)
class Keyframes:
    """The packets from which decoding can begin.

    Attributes:
        frames: int32 (K,), sorted: the frame of each keyframe, or for one that is not shown the first frame stored
            after it.
        places: int32 (K,), sorted: the last place in the stream among the keyframes up to each.
        stamps: int64 (K,), the time to seek to for that place.
        offsets, sizes, pts, at: int64 (K,), the last int32 (K,): all keyframes in file order, with position in the
            file, size in bytes, presentation time, and place.
    """

    frames: Places
    places: Places
    stamps: Integers
    offsets: Integers
    sizes: Integers
    pts: Integers
    at: Places

    def place_of(self, packet: Packet[VideoStream]) -> int | None:
        """Return the place in the stream of a keyframe packet that was just read, or None if unknown."""
        if packet.pos is None:
            return None
        first, end = (int(np.searchsorted(self.offsets, packet.pos, side=side)) for side in SIDES)
        same = first + np.flatnonzero(self.sizes[first:end] == packet.size)
        if len(same) > 1:  # WMV: many frames in one file packet
            same = same[self.pts[same] == (NO_STAMP if packet.pts is None else packet.pts)]
        return int(self.at[same[0]]) if len(same) == 1 else None

    def stamps_towards(self, place: int) -> list[int]:
        """Return the times to seek to for the packet at ``place``: the last keyframe up to it, then the previous."""
        keys = int(np.searchsorted(self.places, place, side="right"))
        stamps = self.stamps[max(0, keys - 2) : keys][::-1].tolist()
        return [stamp for stamp in stamps if stamp != NO_STAMP]


@dataclass(frozen=True, eq=False)
class PacketIndex:
    """Places in the stream of the frames of a timeline.

    Attributes:
        places: int32 (N,), place in the stream of the packet of every frame.
        frames: int32 (P,), frame of every packet; -1 for none.
        is_repaired: whether the clock was reset midway, or there is none; then its times are of no use for seeking.
        note: remark on the times for the ledger.
    """

    order: Order
    timeline: Timeline
    places: Places
    frames: Places
    keyframes: Keyframes
    is_repaired: bool
    note: str

    def keyframe_before(self, index: int) -> int:
        """Return the place in the stream of the last keyframe from which frame ``index`` can be decoded."""
        if self.order == "slots":  # a keyframe may be shown up to this many places later than it is stored
            index = max(0, index - MAX_REORDERED)
        keys = int(np.searchsorted(self.keyframes.frames, index, side="right"))
        return int(self.keyframes.places[keys - 1]) if keys else 0


def order_from_packets(packets: PacketTable, container: str, reorder_depth: int) -> Order:
    """Determine what gives the order of presentation.

    Args:
        packets: all packets of the stream.
        container: FFmpeg's name of the format.
        reorder_depth: how many frames the decoder holds back.
    """
    pts, dts = packets.pts, packets.dts
    has_pts, has_dts = pts != NO_STAMP, dts != NO_STAMP
    known_dts = dts[has_dts]
    is_rising = len(known_dts) == len(dts) and bool((known_dts[1:] > known_dts[:-1]).all())
    if is_rising and (container == "avi" or not has_pts.any()):
        return "slots"
    shown, parts = _find_shown(packets), _clock_parts(packets)
    order = _order_of_pts(packets, shown, parts)
    places = shown[order]
    in_order, part_of = pts[places], parts[places]
    is_sound = (in_order[1:] > in_order[:-1]) | (part_of[1:] > part_of[:-1])
    begins_part = np.flatnonzero(parts[1:] > parts[:-1]) + 1
    if (
        len(places)
        and has_pts[places].all()
        and is_sound.all()
        and packets.is_key[begins_part].all()
        and np.abs(order - np.arange(len(order))).max() <= MAX_REORDERED
    ):
        return "sorted"
    both, known_pts = has_pts & has_dts, pts[has_pts]
    is_stored = reorder_depth == 0 and (pts[both] == dts[both]).all() and (known_pts[1:] >= known_pts[:-1]).all()
    return "stored" if is_stored else "decoded"


def has_rising_pts(packets: PacketTable) -> bool:
    """Return whether every packet has a presentation time after that of the previous packet."""
    pts = packets.pts
    return bool((pts != NO_STAMP).all() and (pts[1:] > pts[:-1]).all())


def _clock_parts(packets: PacketTable) -> Places:
    """Return the number of each packet's part of the stream; a part ends where decoding times go back."""
    goes_back = np.zeros(len(packets.dts), bool)
    known = np.flatnonzero(packets.dts != NO_STAMP)
    goes_back[known[1:][packets.dts[known[1:]] < packets.dts[known[:-1]]]] = True
    return np.cumsum(goes_back, dtype=np.int32)


def _order_of_pts(packets: PacketTable, shown: npt.NDArray[np.intp], parts: Places) -> npt.NDArray[np.intp]:
    """Return the order of presentation times, one part after the other."""
    return np.lexsort((packets.pts[shown], parts[shown]))


def _find_shown(packets: PacketTable) -> npt.NDArray[np.intp]:
    """Return the places of the packets that begin a shown frame, from the first keyframe on.

    If a recording starts in mid-stream, packets before the first keyframe cannot be decoded.
    """
    keys = np.flatnonzero(packets.is_key)
    shown = np.flatnonzero(packets.is_shown)
    return shown[shown >= keys[0]] if len(keys) else shown


def with_failed(decoded: Places, packets: PacketTable | None) -> Places:
    """Insert packets that gave no frame, because a decoder failed, after the frame of the packet stored before them.

    Args:
        decoded: distinct places of the packets whose frames were output, in that order.
        packets: the whole stream; None if no decoder failed.
    """
    if packets is None or not len(decoded):
        return decoded
    missing = np.setdiff1d(_find_shown(packets), decoded).astype(np.int32)
    by_place = np.argsort(decoded)
    before = np.searchsorted(decoded[by_place], missing) - 1
    ranks = np.where(before >= 0, by_place[before] + 0.5, -0.5)
    return np.concatenate((decoded, missing))[
        np.argsort(np.concatenate((np.arange(len(decoded)), ranks)), kind="stable")
    ]


def index_from_packets(
    packets: PacketTable, container: str, stream: VideoStream, order: Order, decoded: Places | None = None
) -> PacketIndex | None:
    """Index a stream; return None if it shows no frame.

    Args:
        packets: all packets of the stream.
        container: FFmpeg's name of the format.
        stream: the stream, for its rate and time base.
        order: result of ``order_from_packets``.
        decoded: for the order ``decoded``, the places of the packets whose frames the decoder output, in its order.
    """
    keys = np.flatnonzero(packets.is_key)
    if order == "slots":
        places, stamps = np.arange(len(packets.dts)), packets.dts
    elif order == "decoded" and decoded is not None:
        places = decoded.astype(np.intp)
        stamps = np.sort(packets.pts[places]) if has_rising_pts(packets) else packets.pts[places]
    else:
        places = _find_shown(packets)
        if order == "sorted":
            parts = _clock_parts(packets)
            places = places[_order_of_pts(packets, places, parts)]
            if len(keys):  # leading frames of the first keyframe need one before it
                places = places[(parts[places] > 0) | (packets.pts[places] >= packets.pts[keys[0]])]
        stamps = packets.pts[places]
    if not len(places):
        return None
    ticks = ticks_from_stamps(stamps, float(1 / (rate_of(stream) * base_of(stream))), base_of(stream))
    frames = np.full(len(packets.dts), -1, np.int32)
    frames[places] = np.arange(len(places), dtype=np.int32)
    first, second = (
        (packets.dts, packets.pts) if order == "slots" or container in SOUGHT_BY_DTS else (packets.pts, packets.dts)
    )
    seekable = np.where(first == NO_STAMP, second, first)
    has_durations = order == "sorted" and container in STORED_DURATIONS and not packets.has_parts
    timeline = _timeline(ticks, int(packets.durations[places[-1]]) if has_durations else 0, base_of(stream))
    return PacketIndex(
        order,
        timeline,
        places.astype(np.int32),
        frames,
        _keyframes(packets, keys, frames, seekable),
        ticks.is_cut or ticks.is_counted,
        _note(ticks, stream),
    )


def _keyframes(packets: PacketTable, keys: npt.NDArray[np.intp], frames: Places, stamps: Integers) -> Keyframes:
    behind = np.minimum.accumulate(np.where(frames < 0, len(frames), frames)[::-1])[::-1]
    of_keys = np.where(frames[keys] >= 0, frames[keys], behind[keys]).astype(np.int32)
    order = np.argsort(of_keys, kind="stable")
    places = np.maximum.accumulate(keys[order])
    in_file = np.argsort(packets.key_offsets, kind="stable")
    return Keyframes(
        of_keys[order],
        places.astype(np.int32),
        stamps[places],
        packets.key_offsets[in_file],
        packets.key_sizes[in_file],
        packets.pts[keys[in_file]],
        keys[in_file].astype(np.int32),
    )


def _timeline(ticks: Ticks, last_duration: int, base: Fraction) -> Timeline:
    times_s = ticks.ticks * base.numerator / base.denominator
    end_s = float(ticks.ticks[-1] + (last_duration or ticks.step)) * base.numerator / base.denominator
    return Timeline(times_s, end_s, end_s)


def _note(ticks: Ticks, stream: VideoStream) -> str:
    if ticks.is_counted:
        return f"no usable times are stored: frames are timed at {float(rate_of(stream)):g} per second"
    return "the stored clock was reset midway: the parts are joined without a gap" if ticks.is_cut else ""


def base_of(stream: Stream) -> Fraction:
    return stream.time_base or Fraction(1)


def rate_of(stream: VideoStream) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate or FALLBACK_RATE
    return rate if rate > 0 else FALLBACK_RATE
