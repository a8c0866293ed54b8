"""Results of reading: frames with their times, damage, and properties of a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import SpecError


@dataclass(frozen=True, eq=False)
class Clip:
    """T frames of one photo, one whole clip or one window of a clip.

    Attributes:
        frames: uint8 (T, height, width, 3), RGB, upright, as specified by the ``PixelSpec``.
        time_s: float64 (T,), presentation times of the frames really shown; the file's first frame is at 0.
        start_s, end_s: the half-open window [start_s, end_s) on the file's timeline; None for photos.
        source: path of the file.
        damage: None if every moment could be read.
        note: see ``FrameWindow``.
    """

    frames: npt.NDArray[np.uint8]
    time_s: npt.NDArray[np.float64]
    start_s: float | None
    end_s: float | None
    source: str
    damage: Damage | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[3] != 3:
            raise SpecError(
                f"frames are {self.frames.dtype}{list(self.frames.shape)}", allowed="uint8[T, height, width, 3]"
            )
        if self.time_s.dtype != np.float64 or self.time_s.shape != self.frames.shape[:1]:
            raise SpecError(
                f"time_s is {self.time_s.dtype}{list(self.time_s.shape)}", allowed=f"float64[{self.frames.shape[0]}]"
            )

    def __repr__(self) -> str:
        window = "photo" if self.start_s is None else f"[{self.start_s:.3f}, {self.end_s:.3f}) s"
        damage = f", damage: {self.damage}" if self.damage else ""
        return f"Clip({self.source!r}, {window}, frames: uint8{list(self.frames.shape)}{damage})"


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame in the model's size.

    Attributes:
        index: index on the file's timeline; unique within the file and increasing. 0 for a photo.
        time_s: presentation time of the frame really shown; the first frame is at 0.
        pixels: uint8 (height, width, 3), RGB, upright.
    """

    index: int
    time_s: float
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Damage:
    """The parts of a video or a photo that could not be read.

    Attributes:
        lost_s: the first and the last moment that show a neighbouring frame, because their own cannot be decoded; None
            if there are none.
        cut_s: actual and stated end of the file, if the former comes first.
        missing: fraction of a photo's pixels that its file does not hold; they are grey.
        is_coarse: a photo lacks its last passes, which add detail and colour to existing pixels.
    """

    lost_s: tuple[float, float] | None = None
    cut_s: tuple[float, float] | None = None
    missing: float = 0.0
    is_coarse: bool = False

    def __str__(self) -> str:
        parts = []
        if self.lost_s:
            first_s, last_s = self.lost_s
            where = f"at {first_s:.2f} s" if first_s == last_s else f"between {first_s:.2f} and {last_s:.2f} s"
            parts.append(f"frames {where} cannot be decoded and are replaced by their neighbours")
        if self.cut_s:
            parts.append(f"the file ends at {self.cut_s[0]:.2f} of {self.cut_s[1]:.2f} s")
        if self.missing:
            share = f"{self.missing:.0%}" if self.missing >= 0.01 else "less than 1%"
            parts.append(f"the file is cut: {share} of the picture is missing and shown in grey")
        if self.is_coarse:
            parts.append("the file is cut: detail or colour is missing")
        return "; ".join(parts)

    def with_later(self, later: Damage) -> Damage:
        """Merge the damage of a later window into this one; lost moments become one interval."""
        lost = [lost_s for lost_s in (self.lost_s, later.lost_s) if lost_s]
        return Damage(
            (min(first for first, _ in lost), max(last for _, last in lost)) if lost else None,
            later.cut_s or self.cut_s,
            max(self.missing, later.missing),
            self.is_coarse or later.is_coarse,
        )


@dataclass(frozen=True)
class FrameWindow:
    """The frames that a photo, a clip or one of its windows shows, in order of time.

    Attributes:
        start_s, end_s: the half-open window [start_s, end_s); None for photos.
        indices: indices of the T frames; a frame may be shown at several moments.
        damage: None if every moment could be read.
        note: remark for the ledger on a file that could be read, such as an ignored colour tag; '' if there is none.
    """

    start_s: float | None
    end_s: float | None
    indices: tuple[int, ...]
    damage: Damage | None = None
    note: str = ""


@dataclass(frozen=True)
class MediaInfo:
    """Properties of a file. Sizes are those after rotation.

    Attributes:
        kind: photo or video.
        width, height: pixels.
        duration_s: from the first frame's start to the last frame's end; None for photos.
        frames: number of moments at which a frame is shown; 1 for photos.
        fps: mean rate, for information only (moments are never computed from it); None for photos.
    """

    kind: Literal["image", "video"]
    width: int
    height: int
    duration_s: float | None
    frames: int
    fps: float | None
