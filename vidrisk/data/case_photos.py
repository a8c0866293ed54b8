"""The photos of cases as JPEGs: decoded in supervised processes, in the order of the cases, a few at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vidrisk.data.cases import Case, PhotoFile, PhotoSource
from vidrisk.data.row_photos import RowPhotos
from vidrisk.decode.jpegs import Jpeg
from vidrisk.decode.messages import InputEnd, PhotoInput, PhotoSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.runtimes.contract.errors import UnreadableError

PHOTOS_AT_A_TIME = 32


@dataclass(frozen=True)
class CasePhoto:
    """What became of a photo.

    Attributes:
        jpeg: None where it cannot be read.
        reason: why not, or what there is to say all the same; '' for nothing.
        is_partial: a part of it is missing, which is grey.
    """

    source: PhotoSource
    jpeg: Jpeg | None
    reason: str = ""
    is_partial: bool = False

    @property
    def title(self) -> str:
        """Its file or its row, and the reason, for people."""
        name = self.source.name if isinstance(self.source, PhotoFile) else str(self.source)
        return f"{name}: {self.reason}" if self.reason else name


def read_case_photos(cases: Iterable[Case], pool: DecodePool,
                     settings: PhotoSettings | None = None) -> Iterator[tuple[Case, tuple[CasePhoto, ...]]]:
    """Yield every case with its photos, in order; memory does not grow with their number.

    Raises:
        RuntimeFailure: decode workers cannot be started.
        DataError: a Parquet file that cannot be opened any more.
    """
    settings = settings or PhotoSettings()
    with RowPhotos() as rows:
        waiting: list[Case] = []
        for case in cases:
            waiting.append(case)
            if sum(len(waits.photos) for waits in waiting) >= PHOTOS_AT_A_TIME:
                yield from _read(waiting, pool, settings, rows)
                waiting = []
        yield from _read(waiting, pool, settings, rows)


def _read(cases: Sequence[Case], pool: DecodePool, settings: PhotoSettings,
          rows: RowPhotos) -> Iterator[tuple[Case, tuple[CasePhoto, ...]]]:
    sources = [photo for case in cases for photo in case.photos]
    requests: list[PhotoInput] = []
    failed: dict[int, InputEnd] = {}
    for place, source in enumerate(sources):
        try:
            requests.append(PhotoInput(place, str(source.path)) if isinstance(source, PhotoFile)
                            else PhotoInput(place, "", rows.read(source)))
        except UnreadableError as error:
            failed[place] = InputEnd(error.state, error.what.removeprefix(f"{source} "))
    found = dict(zip([request.id for request in requests], pool.jpegs(requests, settings) if requests else [], strict=True))
    results = iter([_result(source, *found.get(place, (None, failed.get(place)))) for place, source in enumerate(sources)])
    for case in cases:
        yield case, tuple(next(results) for _ in case.photos)


def _result(source: PhotoSource, jpeg: Jpeg | None, end: InputEnd | None) -> CasePhoto:
    assert end is not None
    return CasePhoto(source, jpeg, end.reason.partition("; fix: ")[0], end.state == "partial")
