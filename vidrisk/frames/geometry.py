"""Geometry of a ``PixelSpec`` for photos and video frames: one resampling with Pillow's antialiased filter."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from vidrisk.runtimes.contract.specs import PixelSpec

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
PAD_GREY = 128


def pixels_from_image(image: Image.Image, spec: PixelSpec) -> npt.NDArray[np.uint8]:
    """Resize an upright RGB image to uint8 (spec.height, spec.width, 3)."""
    size, method = (spec.width, spec.height), FILTERS[spec.interpolation]
    if spec.resize == "squash":
        return np.asarray(image.resize(size, method))
    if spec.resize == "crop":
        return np.asarray(image.resize(size, method, box=_crop_box(image.width, image.height, spec)))
    # pad: the scaled image is centred on grey; an odd pixel goes to the right and to the bottom
    scale = min(spec.width / image.width, spec.height / image.height)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    left, top = (spec.width - width) // 2, (spec.height - height) // 2
    pixels = np.full(spec.frame_shape, PAD_GREY, np.uint8)
    pixels[top : top + height, left : left + width] = np.asarray(image.resize((width, height), method))
    return pixels


def pixels_from_array(array: npt.NDArray[np.uint8], spec: PixelSpec) -> npt.NDArray[np.uint8]:
    """Resize an upright RGB frame, uint8 (H, W, 3), to uint8 (spec.height, spec.width, 3).

    The array itself is returned if nothing changes.
    """
    if array.shape == spec.frame_shape and (spec.resize != "crop" or spec.crop_fraction == 1.0):
        return array
    return pixels_from_image(Image.fromarray(array), spec)


def _crop_box(width: int, height: int, spec: PixelSpec) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) of the centre to keep, in pixels of the unscaled image.

    Cropping before scaling gives the same result as scaling before cropping, without rounding the scaled size.
    """
    scale = max(spec.width / width, spec.height / height)
    kept_width = min(width, spec.width / scale * spec.crop_fraction)
    kept_height = min(height, spec.height / scale * spec.crop_fraction)
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    return (left, top, left + kept_width, top + kept_height)
