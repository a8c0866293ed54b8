"""Writers of videos whose frames are numbered by their grey level.

ffmpeg encodes the frames. This module muxes packets that ffmpeg would not write: packets that share a stamp,
have no stamp, or hold several frames.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av

FRAMES, RATE, WIDTH, HEIGHT = 60, 25, 64, 48
TICKS_PER_S = 90_000
MAX_PES_BYTES = 60_000

Unit = tuple[bytes, bool]  # content, whether decoding can begin there


def level_of(number: int) -> int:
    return 24 + 5 * (number * 17 % 41)


def encode(path: Path, *options: str, filters: str = "null", frames: int = FRAMES) -> None:
    """Encode the numbered frames with ffmpeg."""
    raw = b"".join(bytes([level_of(number)]) * (WIDTH * HEIGHT) for number in range(frames))
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-y",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "gray",
        "-s",
        f"{WIDTH}x{HEIGHT}",
        "-r",
        str(RATE),
        "-i",
        "pipe:",
        "-vf",
        filters,
        "-pix_fmt",
        "yuv420p",
        *options,
        str(path),
    ]
    subprocess.run(command, input=raw, check=True, capture_output=True)


def copy(source: Path, path: Path, *options: str, before: Sequence[str] = ()) -> None:
    """Copy the packets with ffmpeg."""
    command = ["ffmpeg", "-v", "error", "-y", *before, "-i", str(source), "-c", "copy", *options, str(path)]
    subprocess.run(command, check=True, capture_output=True)


def units_of(path: Path, *options: str) -> list[Unit]:
    """Return the numbered frames as access units of a raw stream; ``path`` is the place of a temporary file."""
    raw = path.with_suffix(raw_suffix(options))
    encode(raw, *options)
    with av.open(str(raw)) as container:
        units = [(bytes(packet), packet.is_keyframe) for packet in container.demux() if packet.size]
    raw.unlink()
    return units


def raw_suffix(options: Sequence[str]) -> str:
    return ".raw.m2v" if "mpeg2video" in options else ".raw.h264"


def mux(
    path: Path,
    units: Sequence[Unit],
    stamps: Sequence[tuple[int, int]],
    base: Fraction,
    suffix: str = ".raw.h264",
    together: Sequence[int] = (),
) -> None:
    """Mux access units with their (pts, dts).

    ``together`` gives the number of access units in each packet; a packet without an entry holds one.
    """
    raw = path.with_suffix(suffix)
    raw.write_bytes(b"".join(data for data, _ in units))
    with av.open(str(raw)) as template, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(template.streams.video[0])
        place = number = 0
        while place < len(units):
            count = together[number] if number < len(together) else 1
            packet = av.Packet(b"".join(data for data, _ in units[place : place + count]))
            packet.stream, packet.time_base = stream, base
            packet.pts, packet.dts = stamps[place]
            if path.suffix in (".mp4", ".mov"):  # else the last one lasts no time, and is not shown
                packet.duration = max(1, stamps[1][1] - stamps[0][1]) * count
            packet.is_keyframe = units[place][1]
            container.mux(packet)
            place, number = place + count, number + 1
    raw.unlink()


def even(frames: int = FRAMES, step: int = TICKS_PER_S // RATE) -> list[tuple[int, int]]:
    return [(step * number, step * number) for number in range(frames)]


def places_shown(path: Path, options: Sequence[str]) -> list[int]:
    """Return the place of each stored frame in the order of presentation."""
    probe = path.with_suffix(".order.mkv")
    encode(probe, *options)
    with av.open(str(probe)) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.size]
    probe.unlink()
    ranks = {stamp: rank for rank, stamp in enumerate(sorted(stamps))}
    return [ranks[stamp] for stamp in stamps]


def program_stream(units: Sequence[bytes], stamps: Sequence[tuple[int, int] | None]) -> bytes:
    """Return an MPEG program stream (ISO/IEC 13818-1, 2.5.3) of H.264.

    Every access unit starts a PES, which has (pts, dts) or neither.
    """
    out = bytearray()
    clock = 0
    for number, (unit, stamp) in enumerate(zip(units, stamps, strict=True)):
        clock = stamp[1] if stamp else clock
        out += b"\0\0\1\xba" + _clock_reference(max(0, clock - TICKS_PER_S // 2)) + bytes([1, 137, 195, 0xF8])
        if number == 0:  # which stream is H.264
            stream_map = bytes([0xE0, 0xFF]) + struct.pack(">HHBBH", 0, 4, 0x1B, 0xE0, 0) + bytes(4)
            out += b"\0\0\1\xbc" + struct.pack(">H", len(stream_map)) + stream_map
        for place in range(0, len(unit), MAX_PES_BYTES):
            part = unit[place : place + MAX_PES_BYTES]
            times = _stamp(3, stamp[0]) + _stamp(1, stamp[1]) if stamp and place == 0 else b""
            header = bytes([0x80, 0xC0 if times else 0, len(times)]) + times
            out += b"\0\0\1\xe0" + struct.pack(">H", len(header) + len(part)) + header + part
    return bytes(out) + b"\0\0\1\xb9"


def _stamp(mark: int, ticks: int) -> bytes:
    bits = f"{mark:04b}{ticks >> 30 & 7:03b}1{ticks >> 15 & 32767:015b}1{ticks & 32767:015b}1"
    return int(bits, 2).to_bytes(5, "big")


def _clock_reference(ticks: int) -> bytes:
    bits = f"01{ticks >> 30 & 7:03b}1{ticks >> 15 & 32767:015b}1{ticks & 32767:015b}1{0:09b}1"
    return int(bits, 2).to_bytes(6, "big")
