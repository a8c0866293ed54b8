"""Interface of video decoders: a stream's timeline, and frames by their index on it."""

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
        readable_s: end of the frames that are actually in the file; below ``duration_s`` if the file was cut.
    """

    times_s: npt.NDArray[np.float64]
    duration_s: float
    readable_s: float


@dataclass(frozen=True, eq=False)
class Decoded:
    """One decoded frame.

    Attributes:
        index: the requested frame, as an index into ``Timeline.times_s``.
        shown: the frame that ``rgb`` really is.
        rgb: uint8 (height, width, 3), upright.
        lost: whether ``index`` could not be decoded, so that ``rgb`` is the nearest frame that could.
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
        """Remark for the ledger on a readable file, complete up to the current frame; '' if there is none."""
        ...

    def keyframes(self) -> npt.NDArray[np.intp]:
        """Return the indices of the keyframes in ``timeline.times_s``, sorted; empty if unknown.

        A keyframe can be decoded without other frames. If a container stores no presentation times (AVI), a frame close
        to the keyframe represents it.
        """
        ...

    def frames_at(self, indices: Sequence[int]) -> Iterator[Decoded]:
        """Decode frames, one after another.

        Args:
            indices: sorted, without repetition, into ``timeline.times_s``.

        Raises:
            UnreadableError: no frame can be decoded, or one is too large.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...
