"""Clips with false headers, times or frames, made from real clips by changing the bytes that state them."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
from numbered_clips import write_clip

TS_PACKET_BYTES = 188
TS_TICKS_PER_S = 90_000
# One slice a frame in the simplest syntax, so that another sequence header in front of it makes another size of it.
_PLAIN_H264 = {"profile": "baseline", "x264-params": "keyint=8:scenecut=0:repeat-headers=1:ref=1:weightp=0:8x8dct=0"}

# Id, length, first track, time, flags.
_SIMPLE_BLOCK = re.compile(rb"\xa3(?:[\x81-\xff]|[\x40-\x7f].|[\x20-\x3f]..)\x81(..)[\x00\x80]", re.DOTALL)


def overwritten(content: bytes, after: bytes, offset: int, field: bytes) -> bytes:
    """Return the content with the bytes at ``offset`` behind every ``after`` replaced."""
    changed, place = bytearray(content), -1
    while (place := content.find(after, place + 1)) >= 0:
        start = place + len(after) + offset
        changed[start : start + len(field)] = field
    assert changed != content or field in content, f"no {after!r} that says anything else"
    return bytes(changed)


def mp4_stating(content: bytes, duration: int) -> bytes:
    """Return an MP4 whose three headers state ``duration``, each in its own units.

    The sample table does not change.
    """
    for name, offset in ((b"mvhd", 16), (b"tkhd", 20), (b"mdhd", 16)):
        content = overwritten(content, name, offset, struct.pack(">I", duration))
    return content


def mp4_with_matrix(content: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """Return an MP4 whose display matrix maps (x, y) to (a x + c y, b x + d y)."""
    a, b, c, d = (number << 16 for number in matrix)
    return overwritten(content, b"tkhd", 40, struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30))


def avi_stating(content: bytes, frames: int) -> bytes:
    content = overwritten(content, b"avih", 4 + 16, struct.pack("<I", frames))
    return overwritten(content, b"vids", 28, struct.pack("<I", frames))


def avi_of_size(content: bytes, width: int, height: int) -> bytes:
    """Return an AVI whose headers state a size that differs from the size of its frames."""
    content = overwritten(content, b"avih", 4 + 32, struct.pack("<II", width, height))
    return overwritten(content, b"strf", 4 + 4, struct.pack("<ii", width, height))


def mkv_stating(content: bytes, duration_s: float) -> bytes:
    return overwritten(content, b"\x44\x89\x88", 0, struct.pack(">d", duration_s * 1000))


def mkv_with_times(content: bytes, changed: Callable[[int, int], int]) -> bytes:
    """Return a Matroska file of one cluster with changed times of frames.

    ``changed(number of the frame, its time)`` returns the new time; times are in ms.
    """
    out = bytearray(content)
    for number, block in enumerate(_SIMPLE_BLOCK.finditer(content)):
        (time_ms,) = struct.unpack(">h", block[1])
        out[block.start(1) : block.end(1)] = struct.pack(">h", changed(number, time_ms))
    return bytes(out)


def mp4_with_delay(content: bytes, entry: int, ticks: int) -> bytes:
    """Return an MP4 in which one run of frames is shown ``ticks`` after it is decoded."""
    place = content.index(b"ctts") + 12 + 8 * entry + 4
    return content[:place] + struct.pack(">I", ticks) + content[place + 4 :]


def ts_with_times(content: bytes, changed: Callable[[int, float], int]) -> bytes:
    """Return a transport stream with changed times of pictures.

    ``changed(ticks, part of the file before the packet)`` returns the new ticks, in units of 1/90000 s.
    """
    out = bytearray(content)
    for packet in range(0, len(out), TS_PACKET_BYTES):
        payload = packet + 4 + (1 + out[packet + 4] if out[packet + 3] & 0x20 else 0)
        is_picture = out[packet + 1] & 0x40 and out[payload : payload + 3] == b"\0\0\1" and out[payload + 3] == 0xE0
        for place in range(payload + 9, payload + 9 + (5 * (out[payload + 7] >> 6) - 5 if is_picture else 0), 5):
            a, b, c, d, e = out[place : place + 5]
            ticks = (a >> 1 & 7) << 30 | b << 22 | c >> 1 << 15 | d << 7 | e >> 1
            ticks = changed(ticks, packet / len(out)) % 2**33
            out[place : place + 5] = bytes(
                [
                    a & 0xF1 | ticks >> 30 << 1,
                    ticks >> 22 & 255,
                    ticks >> 14 & 254 | 1,
                    ticks >> 7 & 255,
                    ticks << 1 & 254 | 1,
                ]
            )
    return bytes(out)


def write_sizes(path: Path, *sizes: tuple[int, int], frames: int = 24) -> Path:
    """Write H.264 whose frames state one size after the other; only frames of 64x48 really have the stated size."""
    raw = write_clip(path.with_suffix(".h264"), frames, options=_PLAIN_H264).read_bytes()
    units = re.split(b"\0\0\0\1|\0\0\1", raw)[1:]
    stream = b"".join(
        b"\0\0\0\1" + (_sequence_header(*size) if unit[0] & 31 == 7 else unit) for size in sizes for unit in units
    )
    path.with_suffix(".h264").write_bytes(stream)
    small_only = {"max_pixels": "1000000"}  # nor need they be decoded here
    with (
        av.open(str(path.with_suffix(".h264")), format="h264", options=small_only) as source,
        av.open(str(path), "w") as target,
    ):
        copied = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux() if packet.size):
            packet.stream, packet.time_base, packet.duration = copied, Fraction(1, 25), 1
            packet.pts = packet.dts = number
            target.mux(packet)
    path.with_suffix(".h264").unlink()
    return path


def _sequence_header(width: int, height: int) -> bytes:
    """Return a baseline sequence parameter set (H.264, 7.3.2.1.1) for the slices of ``_PLAIN_H264``.

    Width and height are multiples of 16.
    """
    fields: list[int | str] = [0, 0, 2, 1, "0", width // 16 - 1, height // 16 - 1, "1000", "1"]
    bits = "".join(field if isinstance(field, str) else _exp_golomb(field) for field in fields)
    bits += "0" * (-len(bits) % 8)
    data = bytes([0x67, 66, 0xC0, 62, *(int(bits[place : place + 8], 2) for place in range(0, len(bits), 8))])
    return re.sub(rb"\x00\x00(?=[\x00-\x03])", b"\0\0\3", data)


def _exp_golomb(value: int) -> str:
    code = f"{value + 1:b}"
    return "0" * (len(code) - 1) + code
