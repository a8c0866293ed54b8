"""Inputs of a vision tower with a dynamic grid: patches of frames, and the indices that follow from the grids.

For the towers of Qwen2.5-VL and Qwen3-VL. The export copies this file beside each exported tower, so it imports only
numpy, and a wrong argument raises a ``ValueError`` with a one-line message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def vision_inputs_from_grid(
    grid_thw: npt.ArrayLike, *, merge: int, window: int = 0, table: int = 0
) -> dict[str, Array]:
    """Compute the index inputs of a tower, named as in transformers.

    Args:
        grid_thw: ``(images, 3)``, for each image or video: moments, rows and columns of patches. An image has one
            moment.
        merge: patches per side of a merged token.
        window: merged tokens per side of an attention window; 0 if the tower has no windows.
        table: entries per side of the table of position embeddings; 0 if the tower has no table.

    Returns:
        Arrays by name:

        - position_ids: row and column of each patch, ``int64 (patches, 2)``.
        - cu_seqlens: number of patches before each segment, then their total, ``int64 (segments + 1,)``; a segment is
          one moment.
        - window_index: input positions of the merged tokens, in the order of windows, ``int64 (tokens,)``.
        - cu_window_seqlens: as ``cu_seqlens``, for windows, ``int64 (windows + 1,)``.
        - interp_indices, interp_weights: the four table entries around each patch, ``int64 (patches, 4)``, and their
          weights, ``float32 (patches, 4)``.

    Raises:
        ValueError: a grid is not a whole number of merged tokens.
    """
    grids = _check_grid(grid_thw, merge)
    segments = np.concatenate([np.repeat(height * width, moments) for moments, height, width in grids])
    inputs = {
        "position_ids": np.concatenate(
            [np.tile(np.stack(_places(height, width, merge), axis=1), (moments, 1)) for moments, height, width in grids]
        ),
        "cu_seqlens": _ends(segments),
    }
    if window:
        order, lengths, begin = [], [], 0
        for moments, height, width in grids:
            tokens = np.arange(height * width // merge**2).reshape(height // merge, width // merge)
            windows = list(_windows(tokens, window))
            starts = begin + tokens.size * np.arange(moments)
            order.append((starts[:, None] + np.concatenate(windows)).ravel())
            lengths += [each.size * merge**2 for each in windows] * moments
            begin += tokens.size * moments
        inputs |= {"window_index": np.concatenate(order), "cu_window_seqlens": _ends(np.array(lengths))}
    if table:
        found = []
        for moments, height, width in grids:
            rows, columns = _places(height, width, merge)
            (low, low_share), (left, left_share) = _taps(rows, height, table), _taps(columns, width, table)
            indices = (low[:, :, None] * table + left[:, None]).reshape(-1, 4)
            shares = (low_share[:, :, None] * left_share[:, None]).reshape(-1, 4)
            found.append([np.tile(each, (moments, 1)) for each in (indices, shares)])
        inputs |= {
            name: np.concatenate(each)
            for name, each in zip(("interp_indices", "interp_weights"), zip(*found, strict=True), strict=True)
        }
    return inputs


def patches_from_frames(
    frames: Array, *, patch: int, merge: int, frames_per_patch: int, mean: Sequence[float], std: Sequence[float]
) -> tuple[Array, tuple[int, int, int]]:
    """Cut a video or an image into patches, as the model's processor does.

    Args:
        frames: RGB, ``uint8 (T, H, W, 3)`` or ``uint8 (H, W, 3)``; height and width are multiples of ``patch * merge``.
        patch: pixels per side of a patch.
        merge: patches per side of a merged token.
        frames_per_patch: frames that one patch covers; the last frame is repeated if there are too few.
        mean: per RGB channel, on the 0–1 scale.
        std: per RGB channel, on the 0–1 scale.

    Returns:
        ``float32 (patches, 3 · frames_per_patch · patch²)``, and the grid: moments, rows and columns of patches.

    Raises:
        ValueError: the frames have another type or size.
    """
    frames = frames[None] if frames.ndim == 3 else frames
    side = patch * merge
    if (
        frames.dtype != np.uint8
        or frames.ndim != 4
        or frames.shape[-1] != 3
        or not frames.size
        or any(length % side for length in frames.shape[1:3])
    ):
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape}; allowed: uint8 (T, H, W, 3) with H and W multiples of {side}; "
            "fix: resize them first"
        )
    missing = -len(frames) % frames_per_patch
    frames = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
    pixels = (frames.astype(np.float32) / np.float32(255) - np.array(mean, np.float32)) / np.array(std, np.float32)
    moments, height, width = len(frames) // frames_per_patch, frames.shape[1] // patch, frames.shape[2] // patch
    blocks = pixels.reshape(moments, frames_per_patch, height // merge, merge, patch, width // merge, merge, patch, 3)
    # (moment, block row, block column, row in it, column in it, channel, frame, patch, patch)
    rows = blocks.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(moments * height * width, -1)
    return np.ascontiguousarray(rows), (moments, height, width)


def _check_grid(grid_thw: npt.ArrayLike, merge: int) -> list[tuple[int, int, int]]:
    grid = np.asarray(grid_thw)
    if grid.ndim != 2 or grid.shape[-1] != 3 or not len(grid) or grid.dtype.kind not in "iu" or grid.min() < 1:
        raise ValueError(
            f"a grid of {grid.dtype} {grid.shape}; allowed: positive integers (images, 3): moments, rows, columns; "
            "fix: give image_grid_thw or video_grid_thw of the processor"
        )
    if (grid[:, 1:] % merge).any():
        wrong = next(row for row in grid.tolist() if row[1] % merge or row[2] % merge)
        raise ValueError(
            f"a grid of {wrong[1]} x {wrong[2]} patches; allowed: multiples of {merge}; "
            "fix: resize frames so that rows and columns of patches can be merged"
        )
    return [(int(moments), int(height), int(width)) for moments, height, width in grid.tolist()]


def _places(height: int, width: int, merge: int) -> tuple[Array, Array]:
    """Return rows and columns of patches in the order of merged tokens: patches of one token are adjacent."""
    order = (
        np.arange(height * width).reshape(height // merge, merge, width // merge, merge).transpose(0, 2, 1, 3).ravel()
    )
    return order // width, order % width


def _ends(lengths: Array) -> Array:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _windows(tokens: Array, window: int) -> Iterator[Array]:
    """Yield the tokens of each window in row-major order; windows at the edge are smaller."""
    for row in range(0, tokens.shape[0], window):
        for column in range(0, tokens.shape[1], window):
            yield tokens[row : row + window, column : column + window].ravel()


def _taps(places: Array, length: int, side: int) -> tuple[Array, Array]:
    """Return the two table entries around each place and their weights.

    The ``length`` places are spread from corner to corner of the table (align_corners).
    """
    source = places.astype(np.float32) * np.float32(side - 1) / np.float32(max(length - 1, 1))
    low = np.floor(source)
    entries = np.clip(low.astype(np.int64)[:, None] + np.arange(2), 0, side - 1)
    shares = 1 - np.abs(source[:, None] - low[:, None] - np.arange(2, dtype=np.float32))
    return entries, np.maximum(shares, np.float32(0))
