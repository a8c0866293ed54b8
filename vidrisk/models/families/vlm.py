"""Families of vision-language models of transformers, which differ only in their model class."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from vidrisk.models.config import TrainConfig
from vidrisk.models.families.family import Family, Source
from vidrisk.models.families.hub import pixel_from_processor
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import DataError, SettingsError
from vidrisk.runtimes.contract.specs import PixelSpec

if TYPE_CHECKING:
    from vidrisk.models.vlm.act_classifier import VlmClassifier
    from vidrisk.models.vlm.qwen import QwenVl

SIDE_PX = 224  # a multiple of 28 and of 32


def vlm_family(name: str, model_class: str) -> Family:
    """Describe a family of the Qwen-VL kind, by the name of its whole model's class in ``transformers``."""
    backbone = partial(_backbone, model_class=model_class)
    return Family(
        name,
        "auto",
        ("auto",),
        pixel=_pixel,
        backbone=backbone,
        build=partial(_build, load=backbone),
        has_dynamic_vision=True,
        ignored=("vlm.grid",),
    )


def _pixel(source: Source) -> PixelSpec:
    """Return mean and deviation of the model's processor, which takes images of any size.

    Raises:
        SettingsError: the processor has none; other values would shift every picture.
    """
    try:
        spec = pixel_from_processor(source, PixelSpec(SIDE_PX, SIDE_PX))
    except DataError as error:
        raise SettingsError(
            f"the image processor of {source.backbone!r} gives no mean and deviation: {error.what}",
            allowed="image_mean and image_std",
            fix="copy preprocessor_config.json of that model",
        ) from error
    return dataclasses.replace(spec, interpolation="bicubic")


def _backbone(
    config: TrainConfig, pixel: PixelSpec, *, model_class: str, clips: bool, with_token: bool, local_only: bool = False
) -> QwenVl:
    from vidrisk.models.vlm.qwen import load_qwen

    return load_qwen(
        Source(config.backbone, local_only),
        pixel,
        model_class=model_class,
        clips=clips,
        settings=config.vlm,
        with_token=with_token,
    )


def _build(
    config: TrainConfig, contract: Contract, *, load: Callable[..., QwenVl], local_only: bool = False
) -> VlmClassifier:
    from vidrisk.models.vlm.act_classifier import VlmClassifier

    backbone = load(config, contract.pixel, clips=contract.time is not None, with_token=True, local_only=local_only)
    return VlmClassifier(backbone, config, contract)
