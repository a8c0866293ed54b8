"""``compose:TOWER+LLM``: an image encoder, a two-layer MLP and a causal language model as a classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vidrisk.models.config import TrainConfig
from vidrisk.models.families.family import COMPOSE, Family, Source
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.specs import PixelSpec

if TYPE_CHECKING:
    from vidrisk.models.vlm.act_classifier import VlmClassifier


def _pixel(source: Source) -> PixelSpec:
    from vidrisk.models.encoders import default_pixel

    return default_pixel(source.parts[0])


def _build(config: TrainConfig, contract: Contract, *, local_only: bool = False) -> VlmClassifier:
    from vidrisk.models.vlm.act_classifier import VlmClassifier
    from vidrisk.models.vlm.composed import load_composed

    backbone = load_composed(Source(config.backbone, local_only), contract.pixel, config.vlm)
    return VlmClassifier(backbone, config, contract)


FAMILY = Family(COMPOSE, "auto", ("auto",), pixel=_pixel, build=_build, ignored=("vlm.fps",))
