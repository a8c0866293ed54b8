"""The pixels that a foreign model expects: channel order and arithmetic, and candidates if they are not given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import inf
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from vidrisk.export.foreign.classifier import ImageInput
from vidrisk.runtimes.contract.errors import SettingsError, SpecError, require
from vidrisk.runtimes.contract.specs import PixelSpec

Channels = Literal["rgb", "bgr", "grey"]
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and OpenCV convert
Triple = tuple[float, float, float]
MOST_01 = 2  # a larger value is not a mean or std of numbers from 0 to 1
IMAGENET: tuple[Triple, Triple] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALES: dict[str, tuple[Triple, Triple]] = {
    "imagenet": IMAGENET,
    "0..1": ((0.0,) * 3, (1.0,) * 3),
    "-1..1": ((0.5,) * 3, (0.5,) * 3),
    "0..255": ((0.0,) * 3, (1 / 255,) * 3),
}
GEOMETRIES: dict[str, dict[str, Any]] = {
    "squash": {"resize": "squash", "crop_fraction": 1.0},
    "crop 0.875": {"resize": "crop", "crop_fraction": 0.875},
}


@dataclass(frozen=True)
class ForeignPixels:
    """A pixel contract for a foreign model: the work of the reader and the graph (``spec``), and the channel order.

    Attributes:
        name: of the arithmetic, for messages.
    """

    spec: PixelSpec
    channels: Channels
    name: str = "given"

    def __str__(self) -> str:
        geometry = self.spec.resize if self.spec.resize != "crop" else f"crop {self.spec.crop_fraction:g}"
        order = self.channels if self.channels == "grey" else self.channels.upper()
        return f"{self.name} {order}, {geometry}"

    def prepare(self, frames: npt.NDArray[np.uint8], image: ImageInput) -> npt.NDArray[Any]:
        """Convert frames to the model's own input.

        Frames are ``uint8 (N, H, W, 3)``, or several per sample (N, T, H, W, 3).
        """
        if image.dtype == "uint8":
            values: npt.NDArray[Any] = frames
        else:
            scale, shift = scale_and_shift(self.spec)
            values = frames.astype(np.float32) * scale + shift
        if self.channels == "bgr":
            values = values[..., ::-1]
        if self.channels == "grey":
            values = (
                (values.astype(np.float32) * np.array(GREY, np.float32))
                .sum(axis=-1, keepdims=True)
                .astype(values.dtype)
            )
        return np.ascontiguousarray(values if image.layout == "nhwc" else np.moveaxis(values, -1, -3))


def scale_and_shift(spec: PixelSpec) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return scale and shift per channel: ``value * scale + shift`` is ``(value / 255 - mean) / std``."""
    mean, std = np.array(spec.mean), np.array(spec.std)
    return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)


def candidate_pixels(image: ImageInput, geometry: str) -> list[ForeignPixels]:
    """Return the pixel contracts in common use for such an input, with one geometry."""
    base = PixelSpec(image.height, image.width, **GEOMETRIES[geometry])
    scales = {"0..255": SCALES["0..255"]} if image.dtype == "uint8" else SCALES
    orders: tuple[Channels, ...] = ("grey",) if image.channels == 1 else ("rgb", "bgr")
    found = []
    for name, (mean, std) in scales.items():
        if image.channels == 1 and name == "imagenet":  # a mean per channel does not apply to grey
            continue
        found += [ForeignPixels(replace(base, mean=mean, std=std), order, name) for order in orders]
    return found


def read_pixel_file(path: Path) -> dict[str, Any]:
    """Read a pixel file in YAML or JSON.

    It has fields of ``PixelSpec``, ``channels``, and a ``scale`` instead of mean and std.

    Raises:
        SettingsError: it cannot be read, or has an unknown key.
    """
    yaml: Any = require("yaml", "export")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} cannot be read: {str(error).splitlines()[0]}", allowed="YAML or JSON") from error
    allowed = (*(field.name for field in fields(PixelSpec)), "channels", "scale")
    if not isinstance(data, Mapping) or not set(data) <= set(allowed):
        wrong = sorted(set(map(str, data)) - set(allowed))[0] if isinstance(data, Mapping) else type(data).__name__
        raise SettingsError(f"{path.name} has {wrong!r}", allowed=", ".join(allowed))
    if "scale" in data and {"mean", "std"} & set(data):
        raise SettingsError(f"{path.name} has a scale, and mean or std", fix="leave one of the two out")
    return dict(data)


def pixels_from_settings(settings: Mapping[str, Any], image: ImageInput) -> ForeignPixels:
    """Return the pixel contract of a pixel file, for an input.

    Raises:
        SettingsError: mean and std, or a scale, are missing or not on the 0–1 scale; or the settings do not fit the
            input.
    """
    given = dict(settings)
    channels: Channels = given.pop("channels", "grey" if image.channels == 1 else "rgb")
    if channels not in get_args(Channels) or (channels == "grey") != (image.channels == 1):
        raise SettingsError(
            f"channels {channels!r} for {image!r}", allowed="grey" if image.channels == 1 else "rgb, bgr"
        )
    name = given.pop("scale", "given")
    if "scale" in settings:
        if name not in list(SCALES):
            raise SettingsError(f"scale {name!r}", allowed=", ".join(SCALES))
        given["mean"], given["std"] = SCALES[name]
    elif "mean" in given or "std" in given:
        given["mean"], given["std"] = _per_channel(given, "mean"), _per_channel(given, "std")
    try:
        spec = PixelSpec(**{"height": image.height, "width": image.width, **given})
    except (SpecError, TypeError) as error:
        raise SettingsError(str(error)) from error
    if (spec.height, spec.width) != (image.height, image.width):
        raise SettingsError(f"a size of {spec.height}x{spec.width}", allowed=f"{image.height}x{image.width}")
    return ForeignPixels(spec, channels, name)


def _per_channel(settings: Mapping[str, Any], key: str) -> Triple:
    """Return the mean or std of R, G and B."""
    if key not in settings:
        raise SettingsError(f"no {key} in the pixel file", allowed="mean and std, or a scale", fix="give both")
    value = settings[key]
    values = value if isinstance(value, list | tuple) else [value] * 3
    if len(values) != 3 or not all(
        isinstance(each, int | float) and not isinstance(each, bool) and -inf < each < inf for each in values
    ):
        raise SettingsError(
            f"{key} {value!r}", allowed="one number, or three for R, G and B", fix="write them as 0.5 or 0.001"
        )
    if max(map(abs, values)) > MOST_01:
        raise SettingsError(f"{key} {value!r}", allowed="numbers on the 0-1 scale", fix="divide mean and std by 255")
    return float(values[0]), float(values[1]), float(values[2])


def says_arithmetic(settings: Mapping[str, Any]) -> bool:
    """Return whether a pixel file specifies arithmetic, and not just the size."""
    return bool({"mean", "std", "scale"} & set(settings))
