"""H.264 whose pictures are fields, written bit by bit, because no free encoder makes such streams.

Every macroblock is I_PCM, so that nothing has to be predicted or transformed (ITU-T H.264, 7.3.5). A frame of
one grey level consists of two fields of 64x32. Only their headers distinguish reference fields from
non-reference fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

SIDE_BLOCKS, FIELD_BLOCKS = 4, 2
FRAME_NUM_BITS = ORDER_BITS = 8
GOP_FRAMES = 8
_MAIN_PROFILE, _LEVEL_3 = 77, 30
_CHROMA_GREY = bytes([128]) * 128
_I_PCM, _SLICE_I = 25, 7


class _Writer:
    """A writer that collects bits as text, which is slow and simple."""

    def __init__(self) -> None:
        self._bits: list[str] = []

    def fixed(self, width: int, value: int) -> None:
        self._bits.append(f"{value:0{width}b}")

    def golomb(self, *values: int) -> None:
        for value in values:
            code = f"{value + 1:b}"
            self._bits.append("0" * (len(code) - 1) + code)

    def padded(self, end: str = "") -> str:
        bits = "".join(self._bits) + end
        return bits + "0" * (-len(bits) % 8)

    def align(self) -> None:
        self._bits = [self.padded()]

    def raw(self, content: bytes) -> None:
        self._bits.append("".join(f"{byte:08b}" for byte in content))

    def unit(self, importance: int, kind: int) -> bytes:
        """Return a NAL unit with its start code."""
        bits = self.padded("1")
        out, zeros = bytearray(), 0
        for byte in int(bits, 2).to_bytes(len(bits) // 8, "big"):
            if zeros >= 2 and byte <= 3:
                out.append(3)
                zeros = 0
            out.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return b"\0\0\0\1" + bytes([importance << 5 | kind]) + bytes(out)


def fields_from_levels(levels: Sequence[int], rate: int = 25) -> Iterator[tuple[bytes, bool]]:
    """Yield a top and a bottom field for each frame, each as an access unit and whether decoding can begin there.

    Every second frame between the keyframes is not a reference of any other frame.
    """
    frame_num, was_reference = 0, False
    for number, level in enumerate(levels):
        in_group = number % GOP_FRAMES
        is_key = in_group == 0
        is_reference = is_key or number % 2 == 1
        frame_num = 0 if is_key else frame_num + was_reference
        was_reference = is_reference
        for is_bottom in (False, True):
            first = is_key and not is_bottom
            header = b"\0\0\0\1\x09\x10" + (_parameters(rate) if first else b"")
            order = 2 * in_group + is_bottom
            yield header + _field(level, is_bottom, frame_num, order, is_idr=first, importance=2 * is_reference), first


def _parameters(rate: int) -> bytes:
    sequence = _Writer()
    for value in (_MAIN_PROFILE, 0, _LEVEL_3):
        sequence.fixed(8, value)
    # set 0, bits of frame_num, picture order in the slice header and its bits, two reference frames, no gaps
    sequence.golomb(0, FRAME_NUM_BITS - 4, 0, ORDER_BITS - 4, 2)
    sequence.fixed(1, 0)
    sequence.golomb(SIDE_BLOCKS - 1, FIELD_BLOCKS - 1)
    sequence.fixed(5, 0b00101)  # fields allowed, no mixed macroblocks, direct_8x8, no cropping, VUI
    sequence.fixed(4, 0b0000)  # aspect, overscan, signal, chroma place
    sequence.fixed(1, 1)
    sequence.fixed(32, 1)
    sequence.fixed(32, 2 * rate)
    sequence.fixed(5, 0b10001)  # fixed rate; no HRD twice, no structure; then limits, among them no reordering
    sequence.fixed(1, 1)
    sequence.golomb(0, 0, 16, 16, 0, 2)
    picture = _Writer()
    picture.golomb(0, 0)
    picture.fixed(2, 0)
    picture.golomb(0, 0, 0)
    picture.fixed(3, 0)
    picture.golomb(0, 0, 0)
    picture.fixed(3, 0)
    return sequence.unit(3, 7) + picture.unit(3, 8)


def _field(level: int, is_bottom: bool, frame_num: int, order: int, *, is_idr: bool, importance: int) -> bytes:
    slice_ = _Writer()
    slice_.golomb(0, _SLICE_I, 0)
    slice_.fixed(FRAME_NUM_BITS, frame_num)
    slice_.fixed(2, 2 | is_bottom)
    if is_idr:
        slice_.golomb(0)
    slice_.fixed(ORDER_BITS, order)
    if importance:
        slice_.fixed(2 if is_idr else 1, 0)  # how references are marked
    slice_.golomb(0)
    for _ in range(SIDE_BLOCKS * FIELD_BLOCKS):
        slice_.golomb(_I_PCM)
        slice_.align()
        slice_.raw(bytes([level]) * 256 + _CHROMA_GREY)
    return slice_.unit(importance, 5 if is_idr else 1)
