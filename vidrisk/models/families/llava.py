"""LLaVA (Liu et al. 2023, https://arxiv.org/abs/2310.03744) with a CLIP or SigLIP tower, and saved composed models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vidrisk.models.config import TrainConfig
from vidrisk.models.families.composed_folder import COMPOSED_FOLDER
from vidrisk.models.families.family import Family, Source
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.specs import PixelSpec

if TYPE_CHECKING:
    from vidrisk.models.vlm.act_classifier import VlmClassifier
    from vidrisk.models.vlm.composed import Composed


def _pixel(source: Source) -> PixelSpec:
    from vidrisk.models.vlm.llava_config import read_llava_config

    return read_llava_config(source).pixel


def _backbone(
    config: TrainConfig, pixel: PixelSpec, *, clips: bool, with_token: bool, local_only: bool = False
) -> Composed:
    from vidrisk.models.vlm.llava_reader import load_llava

    return load_llava(Source(config.backbone, local_only), pixel, config.vlm, with_token=with_token)


def _build(config: TrainConfig, contract: Contract, *, local_only: bool = False) -> VlmClassifier:
    from vidrisk.models.vlm.act_classifier import VlmClassifier

    backbone = _backbone(
        config, contract.pixel, clips=contract.time is not None, with_token=True, local_only=local_only
    )
    return VlmClassifier(backbone, config, contract)


FAMILY = Family(
    "llava",
    "auto",
    ("auto",),
    pixel=_pixel,
    backbone=_backbone,
    build=_build,
    aliases=(COMPOSED_FOLDER,),
    ignored=("vlm.fps", "vlm.grid"),
)
