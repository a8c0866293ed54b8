"""Decodes the photos of cases to model frames in supervised processes, in small batches, in the order of the cases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vidrisk.data.case_batches import read_photos_of_cases
from vidrisk.data.cases import Case, PhotoSource
from vidrisk.decode.messages import ReadSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.decode.session import Limits
from vidrisk.runtimes.contract.specs import PixelSpec


@dataclass(frozen=True, eq=False)
class CaseFrame:
    """Result of decoding one photo to a frame.

    Attributes:
        frame: ``uint8 (H, W, 3)``, or None if the photo cannot be read.
        state: one of ``messages.FINAL_STATES``.
        reason: why the photo cannot be read, or a remark on one that can; '' if there is nothing to say.
        content: sha256 of the photo's file or bytes, or '' if nothing could be read.
        bytes: size of the file when it was read, or None if there was no file.
        mtime_ns: modification time of the file when it was read, or None if there was no file.
    """

    source: PhotoSource
    frame: npt.NDArray[np.uint8] | None = field(repr=False)
    state: str = "ok"
    reason: str = ""
    content: str = ""
    bytes: int | None = None
    mtime_ns: int | None = None

    @property
    def is_partial(self) -> bool:
        """Whether a part of the photo is missing; that part is grey."""
        return self.state == "partial"


def read_case_frames(
    cases: Iterable[Case],
    pool: DecodePool,
    pixel: PixelSpec,
    *,
    max_memory_mb: int = ReadSettings.max_memory_mb,
    limits: Limits | None = None,
) -> Iterator[tuple[Case, tuple[CaseFrame, ...]]]:
    """Yield every case with its frames, in order.

    Memory does not grow with the number of cases. A decode worker may allocate ``max_memory_mb`` beyond what it uses
    at its start. ``limits`` applies to each photo; None selects the limits of ``DecodePool.photos``.

    Raises:
        RuntimeFailure: decode workers cannot be started.
        DataError: a Parquet file can no longer be opened.
    """
    settings = ReadSettings(pixel, None, max_memory_mb=max_memory_mb)
    for case, found in read_photos_of_cases(cases, lambda requests: pool.photos(requests, settings, limits)):
        yield (
            case,
            tuple(
                CaseFrame(source, frame, end.state, end.reason, end.content, end.bytes, end.mtime_ns)
                for source, frame, end in found
            ),
        )
