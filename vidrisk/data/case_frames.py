"""The photos of cases as frames of a model: decoded in supervised processes, in the order of the cases, a few at a time."""

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
    """What became of a photo.

    Attributes:
        frame: ``uint8 (H, W, 3)``; None where it cannot be read.
        state: one of ``messages.FINAL_STATES``.
        reason: why it cannot be read, or what there is to say all the same; '' for nothing.
        content: sha256 of the photo's file or bytes; '' where nothing could be read.
        bytes, mtime_ns: of the file when it was read; None where there was none.
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
        """Whether a part of it is missing, which is grey."""
        return self.state == "partial"


def read_case_frames(
    cases: Iterable[Case],
    pool: DecodePool,
    pixel: PixelSpec,
    *,
    max_memory_mb: int = ReadSettings.max_memory_mb,
    limits: Limits | None = None,
) -> Iterator[tuple[Case, tuple[CaseFrame, ...]]]:
    """Yield every case with its frames, in order; memory does not grow with their number.

    Args:
        max_memory_mb: what a decode worker may allocate beyond what it starts with.
        limits: of a photo; None takes those of ``DecodePool.photos``.

    Raises:
        RuntimeFailure: decode workers cannot be started.
        DataError: a Parquet file that cannot be opened any more.
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
