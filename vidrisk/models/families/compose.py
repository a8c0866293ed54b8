"""``compose:TOWER+LLM``: an image encoder, a two-layer MLP and a causal language model as a classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vidrisk.models.config import TrainConfig
from vidrisk.models.families.family import COMPOSE, Family, Source
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.specs import PixelSpec

if TYPE_CHECKING:
    from vidrisk.models.vlm.act_classifier import VlmClassifier
    from vidrisk.models.vlm.composed import Composed


def _pixel(source: Source) -> PixelSpec:
    from vidrisk.models.encoders import default_pixel

    return default_pixel(source.parts[0])


def _backbone(
    config: TrainConfig, pixel: PixelSpec, *, clips: bool, with_token: bool, local_only: bool = False
) -> Composed:
    from vidrisk.models.vlm.composed import load_composed

    return load_composed(Source(config.backbone, local_only), pixel, config.vlm, with_token=with_token)


def _build(config: TrainConfig, contract: Contract, *, local_only: bool = False) -> VlmClassifier:
    from vidrisk.models.vlm.act_classifier import VlmClassifier

    backbone = _backbone(
        config, contract.pixel, clips=contract.time is not None, with_token=True, local_only=local_only
    )
    return VlmClassifier(backbone, config, contract)


FAMILY = Family(COMPOSE, "auto", ("auto",), pixel=_pixel, backbone=_backbone, build=_build, ignored=("vlm.fps",))
