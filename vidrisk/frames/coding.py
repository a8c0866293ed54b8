"""Detection of the packets that begin a shown frame, and of those at which decoding can begin.

In nearly all streams one packet is one frame, thanks to FFmpeg's demuxers and parsers. The exceptions are visible in
the first bits of a packet:

    H.264       a picture may be coded as two fields, and FFmpeg gives each field a packet of its own unless the
                container stores both as one sample. The second field has the other parity and the same ``frame_num``
                (ITU-T H.264, 3.30 and 7.4.3)
    VP8, VP9    a frame may be stored only as a reference for others (RFC 6386, 9.1; VP9 bitstream specification, 6.2)

FFmpeg's keyframe flags are correct except for H.264 with gradual refresh: there it flags the pictures at which a
refresh begins, and frames decoded from such a picture on may differ from those that the encoder made.

H.265 codes fields as pictures of their own, which FFmpeg outputs as frames; MPEG-2's parser joins the fields; AV1
stores whole temporal units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext

# NAL unit types (ITU-T H.264, table 7-1).
_SLICES = (1, 2, 5)
_SEQUENCE_PARAMETERS = 7
# Slice types I and SI (table 7-6).
_INTRA = (2, 4)
# Profiles whose parameter sets state the chroma format (7.3.2.1.1).
_HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
# Enough for a slice header up to bottom_field_flag, and for a parameter set up to frame_mbs_only_flag.
_HEADER_BYTES, _PARAMETER_BYTES = 32, 1024

# Whether a packet begins a frame that is shown, and whether decoding can begin there.
Role = tuple[bool, bool]
RoleOf = Callable[["Packet[Stream]"], Role]


def roles_from_codec(codec: VideoCodecContext) -> RoleOf | None:
    """Return the test for a codec's packets, or None if each is a frame and the keyframe flags are correct.

    The test must be called with every packet, in order.
    """
    if codec.name in ("vp8", "libvpx"):
        return lambda packet: (not packet.size or bool(memoryview(packet)[0] & 0x10), packet.is_keyframe)
    if codec.name in ("vp9", "libvpx-vp9"):
        return lambda packet: (_shows_vp9(packet), packet.is_keyframe)
    if codec.name == "h264":
        return _Fields.from_extradata(codec.extradata or b"").role_of
    return None


def _shows_vp9(packet: Packet[Stream]) -> bool:
    if not packet.size:
        return True
    data = memoryview(packet)
    if data[-1] & 0xE0 == 0xC0:  # a superframe: hidden frames together with a shown one
        return True
    bits = _Bits(bytes(data[:2]))
    bits.read(2)
    if bits.read(1) | bits.read(1) << 1 == 3:  # a profile with one more bit
        bits.read(1)
    if bits.read(1):  # show_existing_frame
        return True
    bits.read(1)
    return bool(bits.read(1))


@dataclass(frozen=True)
class _Picture:
    """The fields of a slice header that distinguish pictures.

    Attributes:
        parity: 0 for a top field, 1 for a bottom field, None for a frame.
        is_intra: whether the slice needs no other picture.
    """

    parity: int | None
    frame_num: int
    is_intra: bool


@dataclass(frozen=True)
class _Sequence:
    """The fields of a sequence parameter set that are needed to read a slice header."""

    frame_num_bits: int
    has_planes: bool
    is_frames_only: bool


class _Fields:
    """Pairs the fields of an H.264 stream."""

    def __init__(self, length_bytes: int, sequence: _Sequence | None) -> None:
        self._length_bytes = length_bytes  # bytes of a NAL unit's length field; 0: units are separated by start codes
        self._sequence = sequence
        self._waiting: tuple[int, int] | None = None  # parity and frame_num of a first field whose second may follow

    @classmethod
    def from_extradata(cls, extradata: bytes) -> _Fields:
        """Read the parameter sets of a container: ``avcC`` (ISO/IEC 14496-15) or units with start codes."""
        if extradata[:1] == b"\1" and len(extradata) > 8:
            size = int.from_bytes(extradata[6:8], "big")
            unit = extradata[8 : 8 + size]
            return cls((extradata[4] & 3) + 1, _sequence_from_unit(unit) if extradata[5] & 31 else None)
        fields = cls(0, None)
        for unit in fields._units(extradata):
            if unit[0] & 31 == _SEQUENCE_PARAMETERS:
                fields._sequence = _sequence_from_unit(unit)
        return fields

    def role_of(self, packet: Packet[Stream]) -> Role:
        """Return the ``Role`` of a packet.

        While the stream has only frames, only keyframes are parsed: new parameter sets come with those.
        """
        is_key = packet.is_keyframe
        if self._sequence and self._sequence.is_frames_only and not is_key:
            return True, False
        begins, waiting = True, self._waiting
        for number, picture in enumerate(self._pictures(bytes(packet))):
            is_second = picture.parity is not None and waiting == (1 - picture.parity, picture.frame_num)
            if number == 0:
                begins, is_key = not is_second, is_key and picture.is_intra
            waiting = None if is_second or picture.parity is None else (picture.parity, picture.frame_num)
        self._waiting = waiting
        return begins, is_key and begins

    def _pictures(self, data: bytes) -> Iterator[_Picture]:
        """Yield the pictures in a packet, each from its first slice."""
        last: tuple[int | None, int] | None = None
        for unit in self._units(data):
            kind = unit[0] & 31
            if kind == _SEQUENCE_PARAMETERS:
                self._sequence = _sequence_from_unit(unit) or self._sequence
            elif kind in _SLICES and self._sequence:
                picture = _picture_from_slice(unit, self._sequence)
                if (picture.parity, picture.frame_num) != last:
                    last = picture.parity, picture.frame_num
                    yield picture
                if picture.parity is None:
                    return  # a frame fills its packet

    def _units(self, data: bytes) -> Iterator[bytes]:
        """Yield the beginnings of the NAL units, skipping empty ones."""
        place, size = 0, self._length_bytes
        if size:
            while place + size < len(data):
                length = int.from_bytes(data[place : place + size], "big")
                place += size
                if length:
                    yield data[place : place + min(length, _PARAMETER_BYTES)]
                place += length
            return
        while (place := data.find(b"\0\0\1", place)) >= 0:
            place += 3
            if place < len(data):
                yield data[place : place + _PARAMETER_BYTES]


class _Bits:
    """Reads big-endian bits; returns zeros past the end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int) -> int:
        self._left -= count
        return self._value >> self._left & (1 << count) - 1 if self._left >= 0 else 0

    def golomb(self) -> int:
        """Read ue(v), ITU-T H.264, 9.1."""
        zeros = 0
        while self._left > 0 and not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)


def _payload(unit: bytes, count: int) -> _Bits:
    """Return the first bits of a NAL unit after its header, without emulation prevention bytes."""
    return _Bits(unit[1:count].replace(b"\0\0\3", b"\0\0"))


def _picture_from_slice(unit: bytes, sequence: _Sequence) -> _Picture:
    """Read a slice header up to bottom_field_flag (7.3.3)."""
    bits = _payload(unit, _HEADER_BYTES)
    bits.golomb()  # first_mb_in_slice
    kind = bits.golomb() % 5
    bits.golomb()  # pic_parameter_set_id
    if sequence.has_planes:
        bits.read(2)
    frame_num = bits.read(sequence.frame_num_bits)
    is_field = not sequence.is_frames_only and bits.read(1)
    return _Picture(bits.read(1) if is_field else None, frame_num, kind in _INTRA)


def _sequence_from_unit(unit: bytes) -> _Sequence | None:
    """Read a sequence parameter set (7.3.2.1.1); return None if it is implausible."""
    bits = _payload(unit, _PARAMETER_BYTES)
    profile, _, _ = bits.read(8), bits.read(16), bits.golomb()
    has_planes = False
    if profile in _HIGH_PROFILES:
        chroma = bits.golomb()
        has_planes = chroma == 3 and bool(bits.read(1))
        bits.golomb(), bits.golomb(), bits.read(1)  # bit depths, qpprime_y_zero_transform_bypass_flag
        if bits.read(1):
            for number in range(12 if chroma == 3 else 8):
                if bits.read(1):
                    _skip_scaling_list(bits, 16 if number < 6 else 64)
    frame_num_bits = bits.golomb() + 4
    if frame_num_bits > 16:
        return None
    order_type = bits.golomb()
    if order_type == 0:
        bits.golomb()
    elif order_type == 1:
        bits.read(1), bits.golomb(), bits.golomb()
        for _ in range(min(255, bits.golomb())):
            bits.golomb()
    bits.golomb(), bits.read(1), bits.golomb(), bits.golomb()  # reference frames, gaps, width, height
    return _Sequence(frame_num_bits, has_planes, bool(bits.read(1)))


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = scale = 8
    for _ in range(size):
        if scale:
            code = bits.golomb()
            scale = (last + (code + 1 >> 1 if code & 1 else -(code >> 1))) % 256
        last = scale or last
