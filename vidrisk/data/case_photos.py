"""Decodes the photos of cases to JPEGs in supervised processes, in small batches, in the order of the cases."""

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
    """Result of decoding one photo to a JPEG.

    Attributes:
        jpeg: the JPEG, or None if the photo cannot be read.
        state: one of ``messages.FINAL_STATES``.
        reason: why the photo cannot be read, or a remark on one that can; '' if there is nothing to say.
        content: sha256 of the photo's file or bytes, or '' if nothing could be read.
    """

    source: PhotoSource
    jpeg: Jpeg | None
    state: str = "ok"
    reason: str = ""
    content: str = ""

    @property
    def is_partial(self) -> bool:
        """Whether a part of the photo is missing; that part is grey."""
        return self.state == "partial"

    @property
    def title(self) -> str:
        """Readable name: the file or the row, and the reason."""
        name = self.source.name if isinstance(self.source, PhotoFile) else str(self.source)
        return f"{name}: {self.reason}" if self.reason else name


def read_case_photos(
    cases: Iterable[Case], pool: DecodePool, settings: PhotoSettings | None = None, limits: Limits | None = None
) -> Iterator[tuple[Case, tuple[CasePhoto, ...]]]:
    """Yield every case with its photos, in order.

    Memory does not grow with the number of cases. ``limits`` applies to each photo; None selects the limits of
    ``DecodePool.jpegs``.

    Raises:
        RuntimeFailure: decode workers cannot be started.
        DataError: a Parquet file can no longer be opened.
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
