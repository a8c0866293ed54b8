"""Recognition of photos and videos by the first bytes of a file, without starting a decoder.

The formats are those that the readers accept. A result is certain; it is None for content that may also begin another
kind of file.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal

Kind = Literal["image", "video"]

HEAD_BYTES = 4096
MIN_TS_PACKETS = 5
TS_PACKET_BYTES = (188, 192, 204)  # plain, with a leading timestamp (M2TS), with a trailing checksum
TS_SYNC = 0x47

# ISO base media files state a brand. Brands without video: HEIF, AVIF (photos), audio, a camera's raw photos.
HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"))
AVIF_BRANDS = frozenset((b"avif", b"avis"))
_PHOTO_BRANDS = HEIF_BRANDS | AVIF_BRANDS | {b"avci", b"avcs", b"miaf", b"mif2"}
_OTHER_BRANDS = frozenset((b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B ", b"crx ", b"jp2 ", b"jpx ", b"jpm "))
# First atoms of a QuickTime file without a brand.
_MOVIE_ATOMS = frozenset((b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"))
_BMP_HEADER_BYTES = frozenset((12, 16, 40, 52, 56, 64, 108, 124))
_PHOTO_MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\0\0\0\x0cJXL \r\n\x87\n",
)
_ASF_MAGIC, _MXF_MAGIC = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), bytes.fromhex("060e2b34020501010d010201")


def read_head(path: str | os.PathLike[str]) -> tuple[os.stat_result, bytes]:
    """Read the status and the first bytes of a file; a file that is not regular is not opened.

    For the latter, the bytes are empty.

    Raises:
        OSError, ValueError: it cannot be opened or read.
    """
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        return status, b""
    # It may have been replaced by a pipe or a terminal since.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        status = os.fstat(descriptor)
        return status, os.read(descriptor, HEAD_BYTES) if stat.S_ISREG(status.st_mode) else b""
    finally:
        os.close(descriptor)


def kind_from_content(head: bytes, size: int) -> Kind | None:
    """Return the kind of a file of ``size`` bytes that begins with ``head``, or None if uncertain."""
    if head.startswith(_PHOTO_MAGIC) or _is_webp(head) or _is_bmp(head):
        return "image"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return "image" if brand in _PHOTO_BRANDS else None if brand in _OTHER_BRANDS else "video"
    is_video = (
        _is_movie(head, size)
        or _is_avi(head)
        or _is_matroska(head)
        or _is_program_stream(head)
        or head.startswith((_ASF_MAGIC, _MXF_MAGIC, b"FLV\x01"))
        or _is_ogg_video(head)
        or _is_dv(head)
        or _is_transport_stream(head)
    )
    return "video" if is_video else None


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _is_bmp(head: bytes) -> bool:
    return head[:2] == b"BM" and head[6:10] == bytes(4) and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES


def _is_movie(head: bytes, size: int) -> bool:
    """Recognize QuickTime before 2001, which begins with an atom of a plausible size.

    The sizes 0 and 1 mean that the size is stated elsewhere.
    """
    atom_bytes = int.from_bytes(head[:4], "big")
    return head[4:8] in _MOVIE_ATOMS and (atom_bytes in (0, 1) or 8 <= atom_bytes <= size)


def _is_avi(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:11] == b"AVI"


def _is_matroska(head: bytes) -> bool:
    return head[:4] == b"\x1aE\xdf\xa3" and (b"matroska" in head[:64] or b"webm" in head[:64])


def _is_ogg_video(head: bytes) -> bool:
    """Recognize Ogg whose first streams are Theora or VP8; most Ogg files are audio."""
    return head[:4] == b"OggS" and (b"\x80theora" in head or b"OVP80" in head)


def _is_dv(head: bytes) -> bool:
    """Recognize the header and subcode blocks of a DV frame, for 60 or 50 fields."""
    return head[:4] in (b"\x1f\x07\0\x3f", b"\x1f\x07\0\xbf") and head[80:82] == b"\x3f\x07"


def _is_program_stream(head: bytes) -> bool:
    """Recognize a pack header, whose next bits are 01 (MPEG-2) or 0010 (MPEG-1)."""
    return head[:4] == b"\0\0\x01\xba" and len(head) > 4 and (head[4] >> 6 == 0b01 or head[4] >> 4 == 0b0010)


def _is_transport_stream(head: bytes) -> bool:
    """Return whether every packet begins with the sync byte and has a payload or an adaptation field.

    The first packet may be cut.
    """
    if 0 not in head:  # a text file, whose columns may look like packets
        return False
    for packet_bytes in TS_PACKET_BYTES:
        start = head.find(TS_SYNC, 0, packet_bytes)
        while start >= 0:
            syncs, flags = head[start::packet_bytes], head[start + 3 :: packet_bytes]
            if (
                len(flags) >= MIN_TS_PACKETS
                and syncs.count(TS_SYNC) == len(syncs)
                and all(flag & 0x30 for flag in flags)
            ):
                return True
            start = head.find(TS_SYNC, start + 1, packet_bytes)
    return False
