"""Detection of static frames, which look like the last kept frame and need not be encoded again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from vidrisk.frames import Frame, FrameWindow

CELLS = 16  # cells per side of the grid: fine enough that a small moving object changes some cell's mean
LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R BT.601
ROUNDING = 1e-3  # levels by which float32 sums may differ between processors, which must all keep the same frames


def without_static(items: Iterable[Frame | FrameWindow], levels: float) -> Iterator[Frame | FrameWindow]:
    """Skip frames that look like the last kept one; windows refer to that one instead.

    A frame is compared with the last *kept* frame, so slow changes add up and are noticed.

    Args:
        items: frames and windows of one input.
        levels: of 255; a frame is skipped if the luma of every grid cell differs by less. 0 keeps every frame.
    """
    kept: tuple[int, npt.NDArray[np.float32]] | None = None
    stands_for: dict[int, int] = {}
    for item in items:
        if isinstance(item, FrameWindow):
            yield replace(item, indices=tuple(stands_for.get(index, index) for index in item.indices))
            stands_for = {index: other for index, other in stands_for.items() if index >= item.indices[0]}
            continue
        luma = luma_cells(item.pixels)
        if kept and float(np.abs(luma - kept[1]).max()) < levels - ROUNDING:
            stands_for[item.index] = kept[0]
        else:
            kept = item.index, luma
            yield item


def luma_cells(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the mean luma of the cells of a grid over ``uint8 (H, W, 3)``.

    The result is float32 (16, 16), or smaller if the frame has fewer pixels.
    """
    rows, columns = (np.linspace(0, side, min(CELLS, side), endpoint=False).astype(int) for side in pixels.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(pixels, rows, axis=0, dtype=np.float32), columns, axis=1)
    areas = np.outer(np.diff([*rows, pixels.shape[0]]), np.diff([*columns, pixels.shape[1]]))
    cells: npt.NDArray[np.float32] = (sums @ LUMA / areas).astype(np.float32)
    return cells
