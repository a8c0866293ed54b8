"""Damaged copies of real media for fuzzing the reader and whole runs: random, but the same for the same seed.

Disks and networks flip bits, lose blocks and truncate files. Decoders mostly fail because of a wrong length
field, so these fields are located by the names of the boxes, chunks and markers next to them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence

# Names with a length before them (MP4) or behind them (RIFF), EBML ids and JPEG markers with a length behind them, PNG
# chunks with a length before them, and the bytes at which transport stream packets begin.
STRUCTURE = re.compile(
    rb"moov|trak|mdia|minf|stbl|stsd|stts|ctts|stsz|stsc|stco|elst|mdat|tkhd|mvhd|avcC|moof|trun"
    rb"|pitm|iloc|iinf|iref|ipco|ipma|ispe|irot|hvcC|av1C|JXL |jxlc"
    rb"|RIFF|LIST|hdrl|strh|strf|avih|movi|idx1|00dc|VP8[ LX]|ANMF"
    rb"|\x1aE\xdf\xa3|\x18S\x80g|\x16T\xaek|\x1fC\xb6u|\x1cS\xbbk|\xa3|\xae|\xe0"
    rb"|\xff[\xc0\xc2\xc4\xda\xdb\xdd\xe0\xe1]|IHDR|IDAT|PLTE|tRNS|acTL|fcTL|II\*\x00|MM\x00\*|GIF8|BM|\x47[\x40\x41]",
    re.DOTALL,
)
LENGTHS = (0, 1, 7, 0x7F, 0x80, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
MAX_COPY_BYTES = 4096

Mutation = Callable[[bytearray, bytes, random.Random], bytearray]


def mutants(originals: Sequence[bytes], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield ``count`` damaged copies of ``originals`` in turn, each with one to three mutations.

    Yields:
        (name, content): the name states number, original and mutations, as in ``0017-of-3-bits-cut``.
    """
    chance = random.Random(seed)
    for number in range(count):
        which = number % len(originals)
        content = bytearray(originals[which])
        chosen = [chance.choice(MUTATIONS) for _ in range(chance.choice((1, 1, 2, 3)))]
        for mutation in chosen:
            if content:
                content = mutation(content, chance.choice(originals), chance)
        yield "-".join([f"{number:04}", f"of-{which}", *(mutation.__name__ for mutation in chosen)]), bytes(content)


def bits(content: bytearray, other: bytes, chance: random.Random) -> bytearray:
    """Flip single bits, a few or many."""
    for _ in range(chance.choice((1, 4, 16, 64, 256))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return content


def head(content: bytearray, other: bytes, chance: random.Random) -> bytearray:
    """Overwrite bytes of the first kilobyte, where most headers are."""
    for _ in range(chance.randint(1, 8)):
        content[chance.randrange(min(len(content), 1024))] = chance.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))
    return content


def zeros(content: bytearray, other: bytes, chance: random.Random) -> bytearray:
    """Set a block to zero, as if it was read from an unwritten sector."""
    part = _part(content, chance)
    content[part] = bytes(len(content[part]))
    return content


def swap(content: bytearray, other: bytes, chance: random.Random) -> bytearray:
    """Exchange two blocks of the same size."""
    size = chance.randint(1, max(1, len(content) // 4))
    one, two = (chance.randint(0, len(content) - size) for _ in range(2))
    content[one : one + size], content[two : two + size] = content[two : two + size], content[one : one + size]
    return content


def cut(content: bytearray, other: bytes, chance: random.Random) -> bytearray:
    """Truncate the file."""
    return content[: chance.randrange(len(content))]


def lost(content: bytearray, other: bytes, chance: random.Random) -> bytearray:
    """Remove a block."""
    del content[_part(content, chance)]
    return content


def twice(content: bytearray, other: bytes, chance: random.Random) -> bytearray:
    """Repeat a block."""
    part = _part(content, chance)
    content[part.start : part.start] = content[part]
    return content


def length(content: bytearray, other: bytes, chance: random.Random) -> bytearray:
    """Falsify the bytes before or after the name of a box, chunk or marker.

    These are its length, version, count or first field.
    """
    places = [match.span() for match in STRUCTURE.finditer(content)]
    start, end = chance.choice(places) if places else (0, 0)
    size = chance.choice((1, 2, 4, 4, 8))
    place = chance.choice((start - size, end, end, end + size, end + 4))
    value = chance.choice((*LENGTHS, chance.getrandbits(32), len(content)))
    field = (value & (1 << 8 * size) - 1).to_bytes(size, chance.choice(("big", "little")))
    return _overwritten(content, max(0, place), field)


def splice(content: bytearray, other: bytes, chance: random.Random) -> bytearray:
    """Continue with the content of another file from a random position on."""
    return content[: chance.randrange(len(content))] + other[chance.randrange(len(other)) :]


def graft(content: bytearray, other: bytes, chance: random.Random) -> bytearray:
    """Overwrite a part of the file with a piece of another file."""
    start = chance.randrange(len(other))
    piece = other[start : start + chance.randint(1, MAX_COPY_BYTES)]
    return _overwritten(content, chance.randrange(len(content)), piece)


def header(content: bytearray, other: bytes, chance: random.Random) -> bytearray:
    """Replace the header with the header of another container."""
    size = chance.choice((4, 12, 32, 188, 512, 2048))
    return bytearray(other[:size]) + content[size:]


MUTATIONS: tuple[Mutation, ...] = (
    bits,
    head,
    zeros,
    swap,
    cut,
    lost,
    twice,
    length,
    length,
    length,
    splice,
    graft,
    header,
)


def _part(content: bytearray, chance: random.Random) -> slice:
    start = chance.randrange(len(content))
    return slice(start, min(len(content), start + chance.randint(1, chance.choice((8, 188, MAX_COPY_BYTES)))))


def _overwritten(content: bytearray, place: int, piece: bytes) -> bytearray:
    content[place : place + len(piece)] = piece
    return content
