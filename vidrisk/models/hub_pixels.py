"""Conversion of an image processor of transformers to a pixel contract."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidrisk.runtimes.contract.errors import DataError, SpecError
from vidrisk.runtimes.contract.specs import Interpolation, PixelSpec

PREPROCESSOR = "preprocessor_config.json"
FILTERS: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}  # in Pillow's numbering
SQUASHED_FROM_PX = 384  # ConvNeXt crops only below this size
ENDING = re.compile(r"(ImageProcessor|VideoProcessor|FeatureExtractor)(Fast|Pil)?$")
TYPES = ("image_processor_type", "video_processor_type", "feature_extractor_type")

Triple = tuple[float, float, float]
Size = int | tuple[int, int]  # of the shorter side, or height and width


@dataclass(frozen=True)
class Processor:
    """Defaults of an image processor for settings that its file leaves out.

    Attributes:
        resample: filter, in Pillow's numbering.
        is_shortest: whether a size of one number is that of the shorter side; otherwise of both.
        crops: whether it crops the centre after resizing; None if it never does.
        crop_px: height and width of the crop; None if a file that crops must give it.
        crop_pct: it scales to ``size / crop_pct`` before cropping.
        squashes: whether it crops nothing from 384 pixels on.
        factor: that values are multiplied by.
        offset: key of the setting that subtracts 1 after that, and its default.
        top: whether it can divide by the deviation a second time (``include_top``).
    """

    resample: int
    is_shortest: bool = False
    crops: bool | None = False
    crop_px: int | None = 224
    crop_pct: float | None = None
    squashes: bool = False
    factor: float = 1 / 255
    offset: tuple[str, bool] | None = None
    top: bool = False


PROCESSORS = {
    "Beit": Processor(3),
    "Bit": Processor(3, is_shortest=True, crops=True),
    "CLIP": Processor(3, is_shortest=True, crops=True),
    "ConvNext": Processor(3, is_shortest=True, crop_px=None, crop_pct=0.875, squashes=True),
    "DeiT": Processor(3, crops=True),
    "EfficientNet": Processor(3, crop_px=289, offset=("rescale_offset", False), top=True),
    "Levit": Processor(3, is_shortest=True, crops=True, crop_pct=0.875),
    "MobileNetV1": Processor(2, is_shortest=True, crops=True),
    "MobileNetV2": Processor(2, is_shortest=True, crops=True),
    "PoolFormer": Processor(3, is_shortest=True, crops=True, crop_pct=0.9),
    "Pvt": Processor(3, crop_px=None),
    "Segformer": Processor(2, crops=None),
    "Siglip": Processor(3, is_shortest=True, crop_px=None),
    "VideoMAE": Processor(2, is_shortest=True, crops=True),
    "ViT": Processor(2, crop_px=None),
    "Vivit": Processor(2, is_shortest=True, crops=True, factor=1 / 127.5, offset=("offset", True)),
}
BY_MODEL_TYPE = {name.lower(): processor for name, processor in PROCESSORS.items()}
ALLOWED = ", ".join(f"{name}ImageProcessor" for name in PROCESSORS)


def pixel_from_preprocessor(settings: Mapping[str, Any], config: Mapping[str, Any]) -> PixelSpec:
    """Convert a Hugging Face image processor to a pixel contract.

    Args:
        settings: of ``preprocessor_config.json``.
        config: of the model, whose type identifies the processor if the file does not.

    Raises:
        DataError: a contract cannot express what it does, or a value is invalid.
    """
    processor = _processor(settings, config)
    height, width, fraction = _geometry(settings, processor)
    mean, std = _arithmetic(settings, processor)
    resample = _value(settings, "resample", processor.resample)
    if not _is_whole(resample) or resample not in FILTERS:
        raise _wrong(
            "resample", resample, "2 (bilinear), 3 (bicubic)", "set the nearer of the two, and look at the accuracy"
        )
    try:
        return PixelSpec(
            height, width, "squash" if fraction is None else "crop", fraction or 1.0, FILTERS[resample], mean, std
        )
    except SpecError as error:
        raise DataError(f"{PREPROCESSOR}: {error}") from error


def normalisation_from_preprocessor(settings: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Triple, Triple]:
    """Return mean and deviation on the 0–1 scale of an image or video processor, ignoring its geometry.

    Args:
        settings: of ``preprocessor_config.json`` or ``video_preprocessor_config.json``; the processor may be unknown.
        config: of the model.

    Raises:
        DataError: a value is missing or invalid.
    """
    _, processor = _find_processor(settings, config)
    return _arithmetic(settings, processor or Processor(2))


def _processor(settings: Mapping[str, Any], config: Mapping[str, Any]) -> Processor:
    key, found = _find_processor(settings, config)
    if found is not None:
        return found
    if key is None:
        raise DataError(
            f"{PREPROCESSOR} has no image_processor_type", allowed=ALLOWED, fix="add the one it was trained with"
        )
    raise _wrong(key, settings[key], ALLOWED)


def _find_processor(settings: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[str | None, Processor | None]:
    """Return the key that names the processor, and the processor; without a key, that of the model's type."""
    key = next((key for key in TYPES if settings.get(key) is not None), None)
    if key is None:
        return None, BY_MODEL_TYPE.get(str(config.get("model_type")).replace("_", ""))
    name = str(settings[key])
    return key, PROCESSORS.get(ENDING.sub("", name)) if ENDING.search(name) else None


def _geometry(settings: Mapping[str, Any], processor: Processor) -> tuple[int, int, float | None]:
    """Return height, width, and the kept fraction of the resized picture; None if both sides are stretched."""
    if not _flag(settings, "do_resize", True):
        raise _wrong("do_resize", False, "true: pictures come in all sizes", "set it to true, and look at the accuracy")
    if _flag(settings, "do_pad", False):
        raise _wrong("do_pad", True, "false", "leave it out, and look at the accuracy")
    size, crop = _size(settings, "size", None, processor.is_shortest), None
    if processor.crops is not None and _flag(settings, "do_center_crop", processor.crops):
        crop = _size(settings, "crop_size", processor.crop_px, is_shortest=False)
    if processor.crop_pct is not None:
        if not isinstance(size, int):
            raise _wrong("size", settings["size"], "a number of pixels, or an object of shortest_edge")
        if processor.squashes:
            if crop not in (None, (size, size)):
                raise _wrong("crop_size", settings.get("crop_size"), f"{size}, or no crop")
            if size >= SQUASHED_FROM_PX:
                return size, size, None
            crop = (size, size)
        size = int(size / _part(settings, processor.crop_pct))
    if isinstance(size, int):
        return _cut(settings, size, crop)
    if crop not in (None, size):
        raise DataError(
            f"{PREPROCESSOR} has size {size[0]}x{size[1]} and crop_size {_shorten(crop)}: it crops a stretched picture",
            allowed="size as shortest_edge, or no crop",
            fix="set size to a shortest_edge or do_center_crop to false, and look at the accuracy",
        )
    return *size, None


def _cut(settings: Mapping[str, Any], shortest: int, crop: Size | None) -> tuple[int, int, float]:
    if crop is None:
        raise DataError(
            f"{PREPROCESSOR} has size {_shorten(settings['size'])} and no crop: pictures would differ in shape",
            allowed="height and width, or do_center_crop",
            fix="set do_center_crop to true, and look at the accuracy",
        )
    if not isinstance(crop, tuple) or crop[0] != crop[1] or crop[0] > shortest:
        raise _wrong(
            "crop_size", settings.get("crop_size", crop), f"a square of up to {shortest} pixels: what size scales to"
        )
    return *crop, crop[0] / shortest


def _part(settings: Mapping[str, Any], default: float) -> float:
    part = _number(settings, "crop_pct", default)
    if not 0.1 <= part <= 1:
        raise _wrong("crop_pct", settings["crop_pct"], "0.1 to 1")
    return part


def _arithmetic(settings: Mapping[str, Any], processor: Processor) -> tuple[Triple, Triple]:
    """Return mean and deviation on the 0–1 scale."""
    factor, offset = 1.0, False
    if _flag(settings, "do_rescale", True):
        factor = _number(settings, "rescale_factor", processor.factor)
        offset = processor.offset is not None and _flag(settings, *processor.offset)
    if factor <= 0:
        raise _wrong("rescale_factor", factor, "a number above 0, such as 1/255")
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if _flag(settings, "do_normalize", True):
        mean, std = _triple(settings, "image_mean"), _triple(settings, "image_std")
    again = (
        _triple(settings, "image_std") if processor.top and _flag(settings, "include_top", True) else (1.0, 1.0, 1.0)
    )
    ratio = 255 * factor  # of the processor's scale to the contract's
    red, green, blue = ((m + offset) / ratio for m in mean)
    first, second, third = (s * t / ratio for s, t in zip(std, again, strict=True))
    return (red, green, blue), (first, second, third)


def _size(settings: Mapping[str, Any], key: str, default: int | None, is_shortest: bool) -> Size:
    given = _value(settings, key, default)
    keys = set(given) if isinstance(given, Mapping) else None
    if keys == {"shortest_edge"} and key == "size":
        given, is_shortest = given["shortest_edge"], True
    elif keys == {"height", "width"}:
        given = [given["height"], given["width"]]
    sides = given if isinstance(given, list) else [given, given]
    if len(sides) != 2 or not all(_is_whole(side) and side > 0 for side in sides):
        raise _wrong(
            key,
            settings.get(key),
            "a number of pixels, [height, width], or an object of height and width"
            + (", or of shortest_edge" if key == "size" else ""),
        )
    return sides[0] if is_shortest and not isinstance(given, list) else (sides[0], sides[1])


def _triple(settings: Mapping[str, Any], key: str) -> Triple:
    given: Any = settings.get(key)
    values = given if isinstance(given, list) else [given] * 3
    if len(values) != 3 or not all(_is_number(value) for value in values):
        raise _wrong(key, given, "one number, or three for R, G and B")
    return float(values[0]), float(values[1]), float(values[2])


def _number(settings: Mapping[str, Any], key: str, default: float) -> float:
    given = _value(settings, key, default)
    if not _is_number(given):
        raise _wrong(key, given, "a number")
    return float(given)


def _flag(settings: Mapping[str, Any], key: str, default: bool) -> bool:
    given = _value(settings, key, default)
    if not isinstance(given, bool):
        raise _wrong(key, given, "true, false")
    return given


def _value(settings: Mapping[str, Any], key: str, default: Any) -> Any:
    """Return the given value; null stands for the processor's default, as in transformers."""
    return default if settings.get(key) is None else settings[key]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def _wrong(key: str, value: Any, allowed: str, fix: str | None = None) -> DataError:
    return DataError(f"{PREPROCESSOR} has {key} {_shorten(value)}", allowed=allowed, fix=fix)


def _shorten(value: Any) -> str:
    """Return a value as JSON, cut after 80 characters."""
    return json.dumps(value, ensure_ascii=False)[:80]
