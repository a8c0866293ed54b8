"""Detection of the tiles of a HEIF photo that lie past the end of its file.

Phones write a photo as a grid of tiles, and libheif silently leaves an unreadable tile green. Therefore the positions
of the tiles are read here. Source: ISO/IEC 23008-12 (grid, irot, imir) and 14496-12 (meta, iloc, iref, iprp).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

MAX_META_BYTES = 16 << 20
MAX_TILES = 1 << 16
MAX_GRID_BYTES = 16
MIRRORS = (Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.FLIP_LEFT_RIGHT)
QUARTER_TURNS = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


@dataclass(frozen=True)
class _Extent:
    in_meta: bool
    offset: int
    length: int

    @property
    def end(self) -> int:
        """End in the file; 0 for data in the meta box itself."""
        return 0 if self.in_meta else self.offset + self.length


class _Reader:
    """Reads consecutive big-endian numbers; raises IndexError at the end."""

    def __init__(self, data: bytes, place: int = 0) -> None:
        self.data, self.place = data, place

    def take(self, count: int) -> int:
        if self.place + count > len(self.data):
            raise IndexError("the box ends")
        self.place += count
        return int.from_bytes(self.data[self.place - count : self.place], "big")


@dataclass(frozen=True, eq=False)
class CutHeif:
    """A HEIF file that is shorter than its parts require.

    Attributes:
        stated_bytes: end of its last part.
    """

    stated_bytes: int
    _boxes: dict[bytes, bytes]
    _extents: dict[int, list[_Extent]]
    _primary: int
    _tiles: list[int]
    _missing: frozenset[int]
    _path: Path

    def mask(self, size: tuple[int, int]) -> Image.Image:
        """Return a mask, 255 for the pixels of the upright primary picture that the file does not hold.

        Raises:
            ValueError: their position cannot be determined.
        """
        if not self._missing:
            return Image.new("L", size)
        try:
            mask = self._make_mask()
            for turn in _turns(self._boxes[b"iprp"], self._primary):
                mask = mask.transpose(turn)
        except (KeyError, IndexError) as error:
            raise ValueError("a part of it lies beyond the end of the file") from error
        if mask.size != size:
            raise ValueError(f"{len(self._missing)} of its {len(self._tiles)} tiles lie beyond the end of the file")
        return mask

    def _make_mask(self) -> Image.Image:
        grid = self._extents[self._primary][0]
        if grid.in_meta:
            content = self._boxes[b"idat"][grid.offset : grid.offset + grid.length]
        else:
            with self._path.open("rb") as file:
                file.seek(grid.offset)
                content = file.read(min(grid.length, MAX_GRID_BYTES))
        reader = _Reader(content, 1)
        wide = 4 if reader.take(1) & 1 else 2
        rows, columns, width, height = reader.take(1) + 1, reader.take(1) + 1, reader.take(wide), reader.take(wide)
        if rows * columns != len(self._tiles):
            raise IndexError("tiles and grid differ")
        reader = _Reader(dict(_properties(self._boxes[b"iprp"], self._tiles[0]))[b"ispe"], 4)
        tile_width, tile_height = reader.take(4), reader.take(4)
        mask = Image.new("L", (width, height))
        for number, tile in enumerate(self._tiles):
            if tile in self._missing:
                left, top = number % columns * tile_width, number // columns * tile_height
                mask.paste(255, (left, top, min(left + tile_width, width), min(top + tile_height, height)))
        return mask


def cut_heif(path: Path) -> CutHeif | None:
    """Find the parts of a HEIF photo that its file does not hold; return None if complete or unknown.

    Raises:
        ValueError: the type of a part is not text, for which pi-heif 1.4 ends the process.
    """
    file_bytes = path.stat().st_size
    try:
        boxes = dict(_children(_meta(path), 4))
    except KeyError:  # libheif will report the error
        return None
    _check_types(boxes.get(b"iinf", b""))
    try:
        extents = _extents(boxes[b"iloc"])
        primary = _Reader(boxes[b"pitm"], 4).take(4 if boxes[b"pitm"][0] else 2)
        tiles = _tiles_of(boxes.get(b"iref", b""), primary)
        stated_bytes = max(extent.end for parts in extents.values() for extent in parts)
        missing = frozenset(
            item for item in (tiles or [primary]) if any(extent.end > file_bytes for extent in extents[item])
        )
    except (KeyError, IndexError, ValueError):
        return None
    return CutHeif(stated_bytes, boxes, extents, primary, tiles, missing, path) if stated_bytes > file_bytes else None


def _turns(iprp: bytes, item: int) -> Iterator[Image.Transpose]:
    for kind, content in _properties(iprp, item):
        turn = (
            QUARTER_TURNS[content[0] & 3] if kind == b"irot" else MIRRORS[content[0] & 1] if kind == b"imir" else None
        )
        if turn is not None:
            yield turn


def _meta(path: Path) -> bytes:
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:
            length, header = int.from_bytes(head[:4], "big"), 8
            if length == 1:
                length, header = int.from_bytes(file.read(8), "big"), 16
            if head[4:] == b"meta":
                return file.read(min(length - header, MAX_META_BYTES) if length else MAX_META_BYTES)
            if length < header:
                break
            file.seek(length - header, 1)
    raise KeyError("meta")


def _children(data: bytes, place: int) -> Iterator[tuple[bytes, bytes]]:
    while place + 8 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big") or len(data) - place
        if length < 8:
            return
        yield data[place + 4 : place + 8], data[place + 8 : place + length]
        place += length


def _extents(iloc: bytes) -> dict[int, list[_Extent]]:
    version = iloc[0]
    reader = _Reader(iloc, 4)
    sizes = reader.take(2)
    offset_bytes, length_bytes, base_bytes = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_bytes = sizes & 15 if version else 0
    found = {}
    for _ in range(reader.take(2 if version < 2 else 4)):
        item = reader.take(2 if version < 2 else 4)
        method = reader.take(2) & 15 if version else 0
        reader.take(2)
        base = reader.take(base_bytes)
        extents = []
        for _ in range(reader.take(2)):
            reader.take(index_bytes)
            offset = base + reader.take(offset_bytes)
            extents.append(_Extent(method != 0, offset, reader.take(length_bytes)))
        found[item] = extents
    return found


def _check_types(iinf: bytes) -> None:
    for _, content in _children(iinf, 6 if iinf[:1] == b"\0" else 8):
        kind, _, rest = content[8 if content[:1] == b"\2" else 10 :].partition(b"\0")
        try:
            (kind[:4] + rest.partition(b"\0")[0]).decode()
        except UnicodeDecodeError as error:
            raise ValueError("the type of one of its parts is not text") from error


def _tiles_of(iref: bytes, item: int) -> list[int]:
    """Return the items that an item is composed of, in order; empty for a picture in one piece."""
    wide = 4 if iref[:1] == b"\1" else 2
    for kind, content in _children(iref, 4):
        reader = _Reader(content)
        if kind == b"dimg" and reader.take(wide) == item:
            return [reader.take(wide) for _ in range(min(reader.take(2), MAX_TILES))]
    return []


def _properties(iprp: bytes, item: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, content) of the properties of an item, in order."""
    boxes = dict(_children(iprp, 0))
    known, reader = list(_children(boxes[b"ipco"], 0)), _Reader(boxes[b"ipma"], 4)
    version, wide = boxes[b"ipma"][0], boxes[b"ipma"][3] & 1
    for _ in range(reader.take(4)):
        is_item = reader.take(4 if version else 2) == item
        for _ in range(reader.take(1)):
            index = reader.take(2) & 0x7FFF if wide else reader.take(1) & 0x7F
            if is_item and index:
                yield known[index - 1]
