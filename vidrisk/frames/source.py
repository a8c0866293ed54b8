"""The seam to the decoders: a stream's timeline, and frames by their place on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt
from typing_extensions import Self


@dataclass(frozen=True, eq=False)
class Timeline:
    """When each frame of a video is shown.

    Attributes:
        times_s: float64 (N,), sorted presentation times; the first frame is at 0.
        duration_s: from the first frame's start to the last frame's end, as the file states it.
        readable_s: where the frames that are really in the file end; below ``duration_s`` when the file was cut.
    """

    times_s: npt.NDArray[np.float64]
    duration_s: float
    readable_s: float


@dataclass(frozen=True, eq=False)
class Decoded:
    """One decoded frame.

    Attributes:
        index: the frame that was asked for, as an index into ``Timeline.times_s``.
        shown: the frame that ``rgb`` really is.
        rgb: uint8 (height, width, 3), upright.
        lost: whether ``index`` could not be decoded, so that ``rgb`` is only the nearest that could.
    """

    index: int
    shown: int
    rgb: npt.NDArray[np.uint8]
    lost: bool


class VideoSource(Protocol):
    """An open video. Display rotation is applied; the sample aspect ratio is not (pixels are taken as square)."""

    @property
    def timeline(self) -> Timeline: ...

    @property
    def note(self) -> str:
        """What the ledger says of the file so far, though it can be read; '' for nothing."""
        ...

    def keyframes(self) -> npt.NDArray[np.intp]:
        """Indices into ``timeline.times_s`` of the frames that are decoded without another, sorted; none where they are
        not known. Where a container stores no presentation times (AVI), a frame near to the keyframe stands for it.
        """
        ...

    def frames_at(self, indices: Sequence[int]) -> Iterator[Decoded]:
        """Decode frames, one after another.

        Args:
            indices: sorted, without repetition, into ``timeline.times_s``.

        Raises:
            UnreadableError: not one frame can be decoded, or one is too large.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...
