"""The photos of cases as JPEGs: decoded in supervised processes, in the order of the cases, a few at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vidrisk.data.case_batches import read_photos_of_cases
from vidrisk.data.cases import Case, PhotoFile, PhotoSource
from vidrisk.decode.jpegs import Jpeg
from vidrisk.decode.messages import PhotoSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.decode.session import Limits


@dataclass(frozen=True)
class CasePhoto:
    """What became of a photo.

    Attributes:
        jpeg: None where it cannot be read.
        state: one of ``messages.FINAL_STATES``.
        reason: why it cannot be read, or what there is to say all the same; '' for nothing.
        content: sha256 of the photo's file or bytes; '' where nothing could be read.
    """

    source: PhotoSource
    jpeg: Jpeg | None
    state: str = "ok"
    reason: str = ""
    content: str = ""

    @property
    def is_partial(self) -> bool:
        """Whether a part of it is missing, which is grey."""
        return self.state == "partial"

    @property
    def title(self) -> str:
        """Its file or its row, and the reason, for people."""
        name = self.source.name if isinstance(self.source, PhotoFile) else str(self.source)
        return f"{name}: {self.reason}" if self.reason else name


def read_case_photos(
    cases: Iterable[Case], pool: DecodePool, settings: PhotoSettings | None = None, limits: Limits | None = None
) -> Iterator[tuple[Case, tuple[CasePhoto, ...]]]:
    """Yield every case with its photos, in order; memory does not grow with their number.

    Args:
        limits: of a photo; None takes those of ``DecodePool.jpegs``.

    Raises:
        RuntimeFailure: decode workers cannot be started.
        DataError: a Parquet file that cannot be opened any more.
    """
    wanted = settings or PhotoSettings()
    for case, found in read_photos_of_cases(cases, lambda requests: pool.jpegs(requests, wanted, limits)):
        yield (
            case,
            tuple(
                CasePhoto(source, jpeg, end.state, end.reason.partition("; fix: ")[0], end.content)
                for source, jpeg, end in found
            ),
        )
