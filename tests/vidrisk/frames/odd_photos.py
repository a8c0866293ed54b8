"""Photos that state more than they hold, or that hold more than they should, written byte by byte."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def grey_png(width: int, height: int, *, whole: bool = True) -> bytes:
    """Return a black PNG of one bit per pixel.

    Unless ``whole``, its image data are only 1000 bytes long.
    """
    row_bytes = 1 + -(-width // 8)
    pixels = zlib.compress(bytes(row_bytes * height if whole else 1000))
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def jpeg(*, progressive: bool = False) -> bytes:
    """Return a noisy JPEG of 64x48."""
    noise = np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", progressive=progressive, subsampling=0)
    return file.getvalue()


def jpeg_of_size(content: bytes, width: int, height: int) -> bytes:
    """Return a JPEG that states another size than it has."""
    start = max(content.find(b"\xff\xc0\0"), content.find(b"\xff\xc2\0")) + 5
    return content[:start] + struct.pack(">HH", height, width) + content[start + 4 :]


def jpeg_with_scans(scans: int) -> bytes:
    """Return a progressive JPEG of ``scans`` scans, whose last scan is repeated."""
    content = jpeg(progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * (scans + 1 - content.count(b"\xff\xda")) + content[-2:]


def gif_with_frames(frames: int) -> bytes:
    """Return a GIF whose first frame is red and whose further frames are blue."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(
        file, "GIF", save_all=True, append_images=[Image.new("RGB", (64, 48), "blue")]
    )
    content = file.getvalue()
    second = content.rindex(b"!\xf9\x04")  # the graphic control extension in front of a frame
    return content[:second] + content[second:-1] * (frames - 1) + content[-1:]


def webp_with_frames(frames: int) -> bytes:
    """Return a WebP whose first frame is red and whose further frames are blue."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(
        file, "WEBP", save_all=True, lossless=True, append_images=[Image.new("RGB", (64, 48), "blue")]
    )
    content = file.getvalue()
    second = content.rindex(b"ANMF")
    body = content[8:second] + content[second:] * (frames - 1)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(tags: dict[int, int], pixels: bytes = bytes(4096)) -> bytes:
    """Return a grey TIFF of 64x48 in one strip, with some tags changed or added.

    Each tag holds one 32-bit number.
    """
    plain = {256: 64, 257: 48, 258: 8, 259: 1, 262: 1, 273: 1000, 277: 1, 278: 48, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted({**plain, **tags}.items()))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries) // 12) + entries + bytes(4)
    return head.ljust(1000, b"\0") + pixels
