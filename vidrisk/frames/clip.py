"""What reading yields: frames with their times, and what is known about a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.errors import SpecError


@dataclass(frozen=True, eq=False)
class Clip:
    """T frames of one photo, one whole clip or one window of a clip.

    Attributes:
        frames: uint8 (T, height, width, 3), RGB, upright, as the ``PixelSpec`` says.
        time_s: float64 (T,), presentation times of the frames really shown; the clip's first frame is at 0.
        start_s, end_s: the half-open window [start_s, end_s) inside the clip; None for photos.
        source: path of the file.
        damage: None when every moment could be read; else one line that says what was lost. Lost moments show the
            nearest readable frame.
    """

    frames: npt.NDArray[np.uint8]
    time_s: npt.NDArray[np.float64]
    start_s: float | None
    end_s: float | None
    source: str
    damage: str | None = None

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[3] != 3:
            raise SpecError(f"frames are {self.frames.dtype}{list(self.frames.shape)}",
                            allowed="uint8[T, height, width, 3]")
        if self.time_s.dtype != np.float64 or self.time_s.shape != self.frames.shape[:1]:
            raise SpecError(f"time_s is {self.time_s.dtype}{list(self.time_s.shape)}",
                            allowed=f"float64[{self.frames.shape[0]}]")

    def __repr__(self) -> str:
        window = "photo" if self.start_s is None else f"[{self.start_s:.3f}, {self.end_s:.3f}) s"
        damage = f", damage={self.damage!r}" if self.damage else ""
        return f"Clip({self.source!r}, {window}, frames: uint8{list(self.frames.shape)}{damage})"


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds. Sizes are those that are seen, after rotation.

    Attributes:
        kind: photo or video.
        width, height: pixels.
        duration_s: from the first frame's start to the last frame's end; None for photos.
        frames: number of moments at which a frame is shown; 1 for photos.
        fps: mean rate, for information only (moments are never found with it); None for photos.
    """

    kind: Literal["image", "video"]
    width: int
    height: int
    duration_s: float | None
    frames: int
    fps: float | None
