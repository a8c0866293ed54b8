"""Immutable, validated specs of pixels, moments and tensors, which all components apply identically.

A ``PixelSpec`` says how a decoded frame becomes ``uint8 (height, width, 3)`` RGB and how the exported graph converts it
to floats; a ``TimeSpec`` says which moments of a clip are used; a ``TensorSpec`` describes an input or output of a
graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import SpecError

ResizeRule = Literal["squash", "crop", "pad"]
Interpolation = Literal["bilinear", "bicubic"]

MAX_SIDE_PX = 2048
MAX_FRAMES = 4096
DTYPES = ("uint8", "int8", "int32", "int64", "float16", "float32")


def _check(ok: bool, what: str, allowed: str) -> None:
    if not ok:
        raise SpecError(what, allowed=allowed)


def _is_count(value: object, most: int) -> bool:
    return isinstance(value, int) and 1 <= value <= most


def _finite(values: object) -> tuple[float, ...] | None:
    """Return the values as floats, or None if they are not a sequence of finite numbers.

    Floats make equal specs serialize identically.
    """
    if not isinstance(values, tuple | list) or not all(isinstance(v, int | float) and np.isfinite(v) for v in values):
        return None
    return tuple(float(v) for v in values)


@dataclass(frozen=True)
class PixelSpec:
    """Conversion of a decoded frame of any size to a model's input.

    The frame reader applies the geometry (resize rule, crop) and yields ``uint8 (height, width, 3)`` RGB. The graph
    normalizes each channel: ``(frame / 255 - mean) / std``.

    Attributes:
        height, width: size of the model's input in pixels.
        resize: ``squash`` stretches both sides; ``crop`` scales the shorter side to fit, then crops the centre; ``pad``
            scales the longer side to fit, then fills with grey (128).
        crop_fraction: with ``crop``, the fraction of the scaled image that is kept (0.875 is ImageNet's 224 of 256).
        interpolation: Pillow's antialiased filter.
        mean, std: per RGB channel, on the 0–1 scale.
    """

    height: int = 224
    width: int = 224
    resize: ResizeRule = "squash"
    crop_fraction: float = 1.0
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        size = f"PixelSpec size {self.height}x{self.width}"
        _check(
            _is_count(self.height, MAX_SIDE_PX) and _is_count(self.width, MAX_SIDE_PX),
            size,
            f"1 to {MAX_SIDE_PX} pixels",
        )
        _check(self.resize in get_args(ResizeRule), f"resize {self.resize!r}", ", ".join(get_args(ResizeRule)))
        _check(
            self.interpolation in get_args(Interpolation), f"interpolation {self.interpolation!r}", "bilinear, bicubic"
        )
        fraction = _finite((self.crop_fraction,))
        _check(fraction is not None and 0.1 <= fraction[0] <= 1.0, f"crop_fraction {self.crop_fraction!r}", "0.1 to 1")
        for name in ("mean", "std"):
            values = _finite(getattr(self, name))
            _check(
                values is not None and len(values) == 3,
                f"{name} {getattr(self, name)!r}",
                "three finite numbers, for R, G and B",
            )
            object.__setattr__(self, name, values)
        _check(min(self.std) > 0, f"std {self.std}", "numbers above 0")

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return (self.height, self.width, 3)


@dataclass(frozen=True)
class TimeSpec:
    """Moments of a clip that the model uses, always by presentation timestamp and never by frame index.

    Without ``window_s``, the ``frames`` moments are spread evenly over the whole clip: moment i is the middle of the
    i-th of ``frames`` equal parts. With ``window_s``, half-open windows ``[start_s, start_s + window_s)`` begin every
    ``stride_s`` seconds, and the moments are spread over each window in the same way, at the fixed rate
    ``frames / window_s``.

    Attributes:
        frames: moments per clip or window, T.
        window_s: length of a window in seconds; None makes the whole clip one window.
        stride_s: distance between window starts in seconds; None means ``window_s`` (no overlap).
    """

    frames: int = 8
    window_s: float | None = None
    stride_s: float | None = None

    def __post_init__(self) -> None:
        _check(_is_count(self.frames, MAX_FRAMES), f"TimeSpec frames {self.frames!r}", f"1 to {MAX_FRAMES}")
        for name, value in (("window_s", self.window_s), ("stride_s", self.stride_s)):
            if value is None:
                continue
            seconds = _finite((value,))
            _check(seconds is not None and seconds[0] > 0, f"{name} {value!r}", "a positive number of seconds")
            object.__setattr__(self, name, float(value))
        _check(
            self.window_s is not None or self.stride_s is None, "stride_s without window_s", "both, or window_s alone"
        )
        if self.window_s is not None and self.stride_s is not None:
            _check(
                self.stride_s <= self.window_s,
                f"stride_s {self.stride_s} > window_s {self.window_s}",
                "a stride of at most one window, because moments between windows would be lost",
            )

    @property
    def fps(self) -> float | None:
        """Moments per second inside a window; None if the window is the whole clip."""
        return None if self.window_s is None else self.frames / self.window_s


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of a graph's input or output.

    A named axis may have any length, which is the same wherever the name recurs.

    >>> TensorSpec("frames", "uint8", ("batch", 224, 224, 3))
    TensorSpec(frames: uint8[batch, 224, 224, 3])
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        _check(bool(self.name), "a tensor without a name", "a non-empty name")
        _check(self.dtype in DTYPES, f"dtype {self.dtype!r} of {self.name}", ", ".join(DTYPES))
        good = all((isinstance(a, str) and a) or (isinstance(a, int) and a > 0) for a in self.shape)
        _check(good, f"shape {self.shape} of {self.name}", "positive integers and axis names")

    def __repr__(self) -> str:
        return f"TensorSpec({self.name}: {self.dtype}[{', '.join(map(str, self.shape))}])"

    def check(self, array: npt.NDArray[np.generic], axes: dict[str, int]) -> None:
        """Check an array against this spec and bind its named axes in ``axes``.

        Raises:
            SpecError: the dtype, the rank or the length of a fixed axis differs, or a named axis is already bound to
                another length.
        """
        if array.dtype != np.dtype(self.dtype):
            raise SpecError(f"{self.name} is {array.dtype}", allowed=self.dtype)
        shape = ", ".join(map(str, self.shape))
        if array.ndim != len(self.shape):
            raise SpecError(f"{self.name} has shape {array.shape}", allowed=f"[{shape}]")
        for axis, length in zip(self.shape, array.shape, strict=True):
            expected = axis if isinstance(axis, int) else axes.setdefault(axis, length)
            if expected != length:
                raise SpecError(
                    f"{self.name} has shape {array.shape}, axis {axis!r} should be {expected}", allowed=f"[{shape}]"
                )
