"""Reads the photos of cases in small batches, in the order of the cases, from files and from rows of Parquet files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from vidrisk.data.cases import Case, PhotoFile, PhotoSource
from vidrisk.data.row_photos import RowPhotos
from vidrisk.decode.messages import InputEnd, PhotoInput
from vidrisk.runtimes.contract.errors import UnreadableError

PHOTOS_AT_A_TIME = 32

_Picture = TypeVar("_Picture")
Found = tuple[PhotoSource, _Picture | None, InputEnd]
Read = Callable[[Sequence[PhotoInput]], Sequence[tuple[_Picture | None, InputEnd]]]


def read_photos_of_cases(
    cases: Iterable[Case], read: Read[_Picture]
) -> Iterator[tuple[Case, tuple[Found[_Picture], ...]]]:
    """Yield every case with the results of reading its photos, in order.

    ``read`` is called with a batch of photos, numbered from 0, and returns one result per photo in the same order.
    Memory does not grow with the number of cases.

    Raises:
        DataError: a Parquet file can no longer be opened.
    """
    with RowPhotos() as rows:
        waiting: list[Case] = []
        for case in cases:
            waiting.append(case)
            if max(len(waiting), sum(len(waits.photos) for waits in waiting)) >= PHOTOS_AT_A_TIME:
                yield from _read(waiting, read, rows)
                waiting = []
        yield from _read(waiting, read, rows)


def _read(
    cases: Sequence[Case], read: Read[_Picture], rows: RowPhotos
) -> Iterator[tuple[Case, tuple[Found[_Picture], ...]]]:
    sources = [photo for case in cases for photo in case.photos]
    requests: list[PhotoInput] = []
    found: dict[int, tuple[_Picture | None, InputEnd]] = {}
    for place, source in enumerate(sources):
        try:
            requests.append(
                PhotoInput(place, str(source.path))
                if isinstance(source, PhotoFile)
                else PhotoInput(place, "", rows.read(source))
            )
        except UnreadableError as error:
            found[place] = None, InputEnd(error.state, error.what.removeprefix(f"{source} "))
    found.update(zip([request.id for request in requests], read(requests) if requests else (), strict=True))
    results = iter([(source, *found[place]) for place, source in enumerate(sources)])
    for case in cases:
        yield case, tuple(next(results) for _ in case.photos)
