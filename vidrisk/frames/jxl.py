"""JPEG XL through a Pillow plugin, with the size read from the header first, since the plugin decodes on opening.

Source: ISO/IEC 18181-1, SizeHeader; 18181-2, boxes.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from PIL import Image

from vidrisk.frames.media import check_size, name_of
from vidrisk.runtimes.contract.errors import UnreadableError, is_installed

PLUGIN = "pillow_jxl"
CODESTREAM, CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
SIZE_BITS = (9, 13, 18, 30)
RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
HEADER_BYTES = 1 << 16


def is_jxl(head: bytes) -> bool:
    """Return whether a file that begins with ``head`` is JPEG XL."""
    return head.startswith((CODESTREAM, CONTAINER))


def open_jxl(path: Path) -> Image.Image:
    """Decode a JPEG XL photo, upright.

    Raises:
        UnreadableError: no plugin (skipped), or too_large.
    """
    if not is_installed(PLUGIN):
        raise UnreadableError(
            f"{name_of(path)} is a JPEG XL photo, which this Pillow cannot read",
            state="skipped",
            fix="convert it to JPEG, or pip install pillow-jxl-plugin (GPL)",
        )
    importlib.import_module(PLUGIN)
    with path.open("rb") as file:
        check_size(*_size(file.read(HEADER_BYTES)), path)
    return Image.open(path, formats=("JXL",))


def _size(head: bytes) -> tuple[int, int]:
    """Return (width, height) that the codestream states; (0, 0) if they cannot be found."""
    if head.startswith(CONTAINER):
        head = _codestream(head)
    if not head.startswith(CODESTREAM):
        return 0, 0
    bits = _Bits(int.from_bytes(head[2:18], "little"))
    is_small = bits.take(1)

    def length() -> int:
        return (bits.take(5) + 1) * 8 if is_small else bits.take(SIZE_BITS[bits.take(2)]) + 1

    height = length()
    ratio = bits.take(3)
    width = height * RATIOS[ratio - 1][0] // RATIOS[ratio - 1][1] if ratio else length()
    return width, height


def _codestream(head: bytes) -> bytes:
    place = 0
    while place + 8 <= len(head):
        length, kind = int.from_bytes(head[place : place + 4], "big"), head[place + 4 : place + 8]
        content = place + (16 if length == 1 else 8)
        if length == 1:
            length = int.from_bytes(head[place + 8 : place + 16], "big")
        if kind in (b"jxlc", b"jxlp"):
            return head[content + 4 * (kind == b"jxlp") :]  # a partial codestream begins with its number
        if length < 8:
            break
        place += length
    return b""


class _Bits:
    """Reads bits, starting with the least significant one."""

    def __init__(self, number: int) -> None:
        self._number = number

    def take(self, count: int) -> int:
        taken = self._number & ((1 << count) - 1)
        self._number >>= count
        return taken
