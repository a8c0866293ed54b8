"""From a configuration to a contract, and to a pretrained model with a fresh head."""

from __future__ import annotations

import dataclasses
from typing import get_args

from vidrisk.models.classifier import ClipClassifier
from vidrisk.models.config import TrainConfig
from vidrisk.models.encoders import build_encoder, default_pixel, pixel_spec
from vidrisk.models.families import Source, family_of
from vidrisk.models.heads import Head, HeadKind
from vidrisk.models.trainable import TrainableModel
from vidrisk.models.vlm.prompts import prompts_from_settings
from vidrisk.runtimes.contract.choices import LabelTask
from vidrisk.runtimes.contract.contract import Contract, Guidance, Sealed, Target
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec


class Labels(Sealed):
    """Content of ``labels.json``."""

    targets: tuple[Target, ...]
    guidance: tuple[Guidance, ...] = ()
    clips: bool


def resolve_config(config: TrainConfig, *, clips: bool) -> TrainConfig:
    """The configuration with nothing left to defaults or to the folder it was run in.

    Mean, deviation, size and filter are the backbone's own. Clips are cropped, so that the aspect ratio of a camera does not
    give the label away; photos are squashed, so that a defect at the rim is not cut off.

    Raises:
        SettingsError: a setting that means nothing to the backbone, or makes no sense.
    """
    family = family_of(Source(config.backbone))
    prompts = config.vlm.prompts
    if prompts in [prompts_from_settings(None, task) for task in get_args(LabelTask)]:  # nobody chose them
        prompts = None
    if "vlm.prompts" not in family.ignored and config.task != "report":
        prompts = prompts_from_settings(prompts, config.task)
    config = config.model_copy(update={"vlm": config.vlm.model_copy(update={"prompts": prompts})})
    family.check_settings(config)
    pixel = pixel_spec(default_pixel(config.backbone), {"resize": "crop" if clips else "squash", **config.pixel})
    # A mirrored swipe to the left is a swipe to the right: clips are augmented only when asked for.
    augment = config.augment if config.augment is not None else ("flip",) if config.task == "risk" else ()
    backbone = Source(config.backbone).resolved
    return config.model_copy(update={"backbone": backbone, "pixel": dataclasses.asdict(pixel), "augment": augment})


def contract_from_config(config: TrainConfig, labels: Labels) -> Contract:
    """The contract of a resolved configuration."""
    pixel = {key: tuple(value) if isinstance(value, list) else value for key, value in config.pixel.items()}
    return Contract(task=config.task, pixel=pixel_spec(PixelSpec(), pixel), targets=labels.targets,
                    time=TimeSpec(config.frames) if labels.clips else None, guidance=labels.guidance)


def build_classifier(config: TrainConfig, contract: Contract, *, local_only: bool = False) -> TrainableModel:
    """Build a pretrained model with a fresh head, and without adapters.

    Args:
        local_only: see ``build_encoder``.
    """
    family = family_of(Source(config.backbone, local_only))
    family.check_pool(config.pool, config.backbone)
    build = family.build or build_clip_classifier
    return build(config, contract, local_only=local_only)


def build_clip_classifier(config: TrainConfig, contract: Contract, *, local_only: bool = False) -> ClipClassifier:
    """Build an encoder and a head: what a family without a ``build`` of its own is."""
    encoder = build_encoder(config.backbone, pixel=dataclasses.asdict(contract.pixel), pool=config.pool, frames=contract.frames,
                            local_only=local_only)
    encoder.requires_grad_(False)
    encoder.is_frozen = config.lora.last_blocks == 0
    sees_order = contract.time is not None and not encoder.sees_windows  # a window encoder has seen it
    kind = config.head.kind
    if kind == "auto":
        kind = "segments" if sees_order else "linear"
    if kind == "transformer" or kind == "transformer_no_vision":
        raise SettingsError(f"head {kind!r} behind {config.backbone!r}", allowed=f"auto, {', '.join(get_args(HeadKind))}",
                            fix="set head.kind, or choose a vision-language model")
    frames = None if encoder.sees_windows else contract.frames
    head = Head(kind, width=encoder.width, frames=frames, targets=contract.targets, hidden=config.head.hidden,
                dropout=config.head.dropout)
    return ClipClassifier(encoder, head)
