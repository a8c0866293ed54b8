"""Test-time views of an input, predicted side by side: other moments of the same parts of a clip, and mirrored frames.

A clip is read at more moments than the model takes, and each view takes every n-th of them: the middle view is the
model's own input. The caller averages the probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vidrisk.data.directions import mirror_labels
from vidrisk.decode.messages import Read
from vidrisk.frames import Frame, FrameWindow
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.specs import MAX_FRAMES, TimeSpec

Floats = npt.NDArray[np.float64]
MAX_VIEWS = 32
MIRRORED = 2**40  # exceeds the frame count of any file


@dataclass(frozen=True)
class Views:
    """Number and kind of views per input.

    Attributes:
        offsets: moments per part of a clip, one per view, spread evenly over the part.
        is_mirrored: whether each view is also mirrored.

    Raises:
        SettingsError: not a number from 1 to 32.
    """

    offsets: int = 1
    is_mirrored: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.offsets, int) or not 1 <= self.offsets <= MAX_VIEWS:
            raise SettingsError(f"{self.offsets!r} views", allowed=f"1 to {MAX_VIEWS}")

    @property
    def count(self) -> int:
        """Number of answers that are averaged."""
        return self.offsets * (1 + self.is_mirrored)

    @property
    def moments(self) -> int:
        """Moments read per part: an odd number, so that the middle one is the model's own."""
        return self.offsets + 1 - self.offsets % 2

    @property
    def windows(self) -> int:
        """Number of windows, or photos, that ``split`` makes of one.

        It is also the number of answers of an input without missing ones.
        """
        return self.moments * (1 + self.is_mirrored)

    def check(self, contract: Contract, time: TimeSpec | None) -> None:
        """Check that a model supports the views.

        Args:
            contract: contract of the model.
            time: windows in which its inputs are read.

        Raises:
            SettingsError: several moments of photos, windows, too many moments; mirrored frames, and a label with a
                direction whose counterpart is not one of the labels.
        """
        if self.offsets > 1 and time is None:
            raise SettingsError(
                f"{self.offsets} views of photos, which have one moment",
                allowed="1 view of photos",
                fix="leave views out, or mirror the photos",
            )
        if time is not None and self.moments * time.frames > MAX_FRAMES:
            raise SettingsError(
                f"{self.offsets} views of {time.frames} moments", allowed=f"{MAX_FRAMES} moments in all"
            )
        if time is not None and time.window_s and self.count > 1:
            raise SettingsError(
                "views of windows of a video",
                allowed="views of whole clips, or of parts of them",
                fix="leave views or the window out",
            )
        for target in contract.targets if self.is_mirrored else ():
            if mirror_labels(target.labels) is None:
                raise SettingsError(
                    f"mirrored views: a label of {target.name} says left or right, and its counterpart is no label",
                    allowed="labels in pairs, such as left and right",
                    fix="do not mirror the views",
                )

    def split(self, reads: Iterable[Read]) -> Iterator[Read]:
        """Yield reads with a window per view: those of the moments in order, then the mirrored ones.

        Mirrored frames are numbered from ``MIRRORED`` on.
        """
        for read in reads:
            item = read.item
            if isinstance(item, FrameWindow):
                for base in (0, MIRRORED)[: 1 + self.is_mirrored]:
                    for moment in range(self.moments):
                        indices = tuple(base + index for index in item.indices[moment :: self.moments])
                        yield replace(read, item=replace(item, indices=indices))
                continue
            yield read
            if isinstance(item, Frame) and self.is_mirrored:
                flipped = np.ascontiguousarray(item.pixels[:, ::-1])
                yield replace(read, item=replace(item, index=MIRRORED + item.index, pixels=flipped))

    def mean(self, answers: Floats, labels: Sequence[str]) -> tuple[Floats, Floats]:
        """Return the mean probabilities over all views of an input, and those of the model's own view, each ``(C,)``.

        Args:
            answers: probabilities of every view ``(views, C)``, in the order of ``split``.
            labels: the C labels.
        """
        of_views = answers.reshape(-1, self.moments, answers.shape[1])
        own: Floats = of_views[0, self.moments // 2]
        if self.is_mirrored:
            turned = mirror_labels(labels)
            assert turned is not None  # guaranteed by ``check``
            of_views = np.stack([of_views[0], of_views[1][:, turned]])
        chosen = [place for place in range(self.moments) if self.offsets % 2 or place != self.moments // 2]
        found: Floats = of_views[:, chosen].mean(axis=(0, 1))
        return found, own


ONE_VIEW = Views()
