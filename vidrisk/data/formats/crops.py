"""Cuts boxes out of photos into photos of their own, lossless, as PNG, in supervised decode processes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path

from vidrisk.data.formats.media_files import MediaFiles, safe_name
from vidrisk.data.formats.rows import Found, Row, samples_from_rows
from vidrisk.decode.cuts import MAX_BOXES, Box, Cut
from vidrisk.decode.messages import READ_STATES, Again, CutInput, CutSettings, InputEnd
from vidrisk.decode.pool import DecodePool, default_workers
from vidrisk.frames.left_out import shorten_path
from vidrisk.runtimes.contract.errors import DataError, SettingsError


@dataclass(frozen=True)
class Crop:
    """A box on a photo.

    The box is in pixels of the upright photo; parts outside the photo are cut off.

    Attributes:
        path: path of the photo.
        name: name of the PNG to write, relative to its folder, with ``/`` between folders.
        left: left edge.
        top: top edge.
        width: width of the box.
        height: height of the box.
    """

    path: Path
    name: str
    left: float
    top: float
    width: float
    height: float


def cut_crops(crops: Iterable[Crop], made: Path) -> list[Path | None]:
    """Cut boxes out of photos and write each as a PNG of every pixel that it touches.

    Photos are decoded in separate processes, and only once if their crops follow each other. Crops with a side of more
    than 4096 pixels (``CutSettings.max_side``) are scaled down. On failure, the files that were written are deleted.
    The folder ``made`` is created if it does not exist.

    Returns:
        The files that were written, in the order of the crops; None if a photo cannot be read or a box has no area.

    Raises:
        DataError: a repeated name, one that leaves the folder or exists already, or a disk that is full.
        RuntimeFailure: decode processes cannot be started.
    """
    cutting = _Cutting(made)
    try:
        requests = cutting.requests(crops)
        first = next(requests, None)
        if first is not None:
            with DecodePool(default_workers()) as pool:
                for read in pool.cuts(chain([first], requests), CutSettings()):
                    cutting.take(read.id, read.item)
    except BaseException:
        cutting.remove_all()
        raise
    return cutting.written


def samples_from_boxes(
    boxes: Iterable[tuple[Row, Box]], files: MediaFiles, made: Path | None, *, multi_label: bool | None
) -> Found:
    """Cut the boxes of rows out of their photos into samples; those of one photo stay in one split.

    Args:
        boxes: rows whose name is that of the photo, each with a box in pixels.
        files: finds the photos.
        made: see ``Reading``; names of samples are relative to it.
        multi_label: see ``samples_from_rows``.

    Raises:
        SettingsError: no folder to write to.
        DataError: as ``cut_crops`` and ``samples_from_rows``.
    """
    if made is None:
        raise SettingsError("crops without a folder to write them to", fix="import the data set as a manifest first")
    rows: list[Row] = []
    absent: dict[str, None] = {}

    def crops() -> Iterator[Crop]:
        numbers: dict[str, int] = {}
        for row, box in boxes:
            photo = files.find(row.name)
            if photo is None:
                absent[row.name] = None
                continue
            numbers[photo] = numbers.get(photo, 0) + 1
            name = f"{_below(photo)}.{numbers[photo]}.png"
            rows.append(replace(row, name=name, group=row.group or row.name))
            yield Crop(files.root / photo, name, *box)

    written = cut_crops(crops(), made)
    whole = [row for row, path in zip(rows, written, strict=True) if path]
    found = samples_from_rows(whole, MediaFiles(made), kinds=("image",), multi_label=multi_label)
    lost = len(rows) - len(whole)
    notes = (f"boxes left out because they have no area or their photo cannot be read: {lost}",) if lost else ()
    return found._replace(absent=tuple(absent), notes=(*found.notes, *notes))


def photo_of_crop(name: str) -> str:
    """Return the name of the photo that a sample of ``samples_from_boxes`` was cut out of, from that of the sample."""
    return name.rsplit(".", 2)[0]


def upright_box(box: Box, degrees: float, pivot: tuple[float, float]) -> Box:
    """Return the upright box around a box that is rotated clockwise around a point."""
    left, top, width, height = box
    if not degrees:
        return box
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    corners = [(x - pivot[0], y - pivot[1]) for x in (left, left + width) for y in (top, top + height)]
    horizontal = [pivot[0] + x * cosine - y * sine for x, y in corners]
    vertical = [pivot[1] + x * sine + y * cosine for x, y in corners]
    return min(horizontal), min(vertical), max(horizontal) - min(horizontal), max(vertical) - min(vertical)


@dataclass(eq=False)
class _Cutting:
    """Requested crops and their results."""

    made: Path
    written: list[Path | None] = field(default_factory=list)
    _targets: dict[int, list[tuple[int, Path]]] = field(
        default_factory=dict
    )  # for each request, places in ``written`` and files
    _named: set[Path] = field(default_factory=set)
    _files: set[Path] = field(default_factory=set)  # written by this object

    def requests(self, crops: Iterable[Crop]) -> Iterator[CutInput]:
        numbers = count()
        held: list[Crop] = []
        for crop in crops:
            if held and (held[0].path != crop.path or len(held) == MAX_BOXES):
                yield self._request(next(numbers), held)
                held = []
            held.append(crop)
        if held:
            yield self._request(next(numbers), held)

    def _request(self, number: int, crops: list[Crop]) -> CutInput:
        targets = [self._target(crop.name) for crop in crops]
        self._targets[number] = list(enumerate(targets, len(self.written)))
        self.written += [None] * len(crops)
        return CutInput(
            number, str(crops[0].path), tuple((crop.left, crop.top, crop.width, crop.height) for crop in crops)
        )

    def _target(self, name: str) -> Path:
        safe = safe_name(name)
        if safe is None:
            raise DataError(f"the crop {shorten_path(name)!r} lies outside its folder", allowed="a name below it")
        path = self.made / safe
        if path in self._named:
            raise DataError(f"two crops have the name {shorten_path(name)!r}", allowed="a name for each")
        self._named.add(path)
        return path

    def take(self, number: int, item: object) -> None:
        """Write a crop that has arrived, or delete the crops of a photo that could not be read to its end."""
        targets = self._targets[number]
        if isinstance(item, Cut):
            place, path = targets[item.place]
            self._write(path, item.data)
            self.written[place] = path
        elif isinstance(item, InputEnd):
            del self._targets[number]
        if isinstance(item, Again) or (isinstance(item, InputEnd) and item.state not in READ_STATES):
            for place, path in targets:
                self.written[place] = None
                if path in self._files:
                    path.unlink(missing_ok=True)
                    self._files.discard(path)

    def _write(self, path: Path, data: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                self._files.add(path)
                file.write(data)
        except FileExistsError as error:
            raise DataError(
                f"{shorten_path(str(path))} exists already", fix="delete the folder of an earlier import first"
            ) from error
        except OSError as error:
            raise DataError(
                f"{shorten_path(str(path))} cannot be written: {error.strerror}", fix="check free space and permissions"
            ) from error

    def remove_all(self) -> None:
        """Delete the files that were written, and their folders if they are empty."""
        for path in self._files:
            path.unlink(missing_ok=True)
        for folder in sorted(
            {parent for path in self._files for parent in path.parents}, key=lambda path: -len(path.parts)
        ):
            if folder.is_relative_to(self.made):
                with suppress(OSError):
                    folder.rmdir()


def _below(name: str) -> str:
    """Return a name below a folder; for a file that lies elsewhere, its last part."""
    safe = safe_name(name)
    return str(safe) if safe else str(Path(name).name)
