"""Construction of a contract, and of a pretrained model with a fresh head, from a configuration."""

from __future__ import annotations

import dataclasses
from typing import get_args

from vidrisk.models.classifier import ClipClassifier
from vidrisk.models.config import DEFAULT_HEAD_LR, Augmentation, HeadSettings, ReportSettings, TrainConfig
from vidrisk.models.encoders import PAIR, Encoder, build_encoder, default_pixel, pixel_spec
from vidrisk.models.families import Source, family_of
from vidrisk.models.families.family import Family
from vidrisk.models.heads import Head, HeadKind
from vidrisk.models.trainable import TrainableModel
from vidrisk.models.vlm.prompts import prompts_from_settings
from vidrisk.models.vlm.reporter import Reporter
from vidrisk.runtimes.contract.choices import LabelTask
from vidrisk.runtimes.contract.contract import Contract, Guidance, Sealed, Target
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

# Settings that only classifiers have.
OF_CLASSIFIERS = (
    "pool",
    "frames",
    "jitter",
    "rgb_diff",
    "decoder",
    "level_order",
    "compare",
    "multi_label",
    *(f"head.{name}" for name in HeadSettings.model_fields),
    *(
        f"optim.{name}"
        for name in ("head_lr", "token_lr", "label_smoothing", "mixup", "cutmix", "class_weights", "metric")
    ),
    *(f"vlm.{name}" for name in ("token", "prompts", "fixed_prompt", "question_first", "language_loss")),
)


class Labels(Sealed):
    """Content of ``labels.json``."""

    targets: tuple[Target, ...]
    guidance: tuple[Guidance, ...] = ()
    clips: bool


def resolve_config(config: TrainConfig, *, clips: bool) -> TrainConfig:
    """Return the configuration with all defaults resolved and independent of the working directory.

    Mean, deviation, size and filter are the backbone's own. Clips are cropped, so that the aspect ratio of a camera
    does not give the label away; photos are squashed, so that a defect at the edge is not cut off.

    Raises:
        SettingsError: a setting has no effect on the backbone, or is invalid.
    """
    family = family_of(Source(config.backbone))
    prompts = config.vlm.prompts
    if prompts in [prompts_from_settings(None, task) for task in get_args(LabelTask)]:  # they are the defaults
        prompts = None
    if "vlm.prompts" not in family.ignored and config.task != "report":
        prompts = prompts_from_settings(prompts, config.task)
    config = config.model_copy(update={"vlm": config.vlm.model_copy(update={"prompts": prompts})})
    family.check_settings(config)
    if config.task == "report":
        _check_report_settings(config)
    elif config.report != ReportSettings():
        raise SettingsError(f"report settings for task {config.task!r}", allowed="task report", fix="leave report out")
    config = config.model_copy(update=moments_of_clips(config, family, clips=clips))
    _check_differences(config, family)
    pixel = pixel_spec(default_pixel(config.backbone), {"resize": "crop" if clips else "squash", **config.pixel})
    augment = config.augment if config.augment is not None else default_augment(config, family, clips=clips)
    if "dihedral" in augment and pixel.height != pixel.width:
        raise SettingsError(
            f"augment dihedral of {pixel.height}x{pixel.width} frames",
            allowed="square frames",
            fix="set pixel.height and pixel.width alike, or augment=[flip]",
        )
    backbone = Source(config.backbone).resolved
    optim = config.optim.model_copy(update={"head_lr": rate_of_head(config, family)})
    return config.model_copy(
        update={"backbone": backbone, "pixel": dataclasses.asdict(pixel), "augment": augment, "optim": optim}
    )


def default_augment(config: TrainConfig, family: Family, *, clips: bool) -> tuple[Augmentation, ...]:
    """Return the default augmentations of training samples.

    For clips and a frame encoder these are mirroring, zoom, changed light, and a blended still frame; photos of defects
    are mirrored. Training removes mirroring again if labels say left or right and have no counterpart. For a
    vision-language model, which reads words about its input, there are none.
    """
    if family.build is not None or config.task == "report":
        return ()
    if clips:
        return ("flip", "zoom", "light", "still")
    return ("flip",) if config.task == "risk" else ()


def moments_of_clips(config: TrainConfig, family: Family, *, clips: bool) -> dict[str, int | bool]:
    """Return ``frames`` and ``rgb_diff``.

    If neither is given, a frame encoder gets twice as many moments, every second one as a difference: changes between
    two moments carry over to other scenes better than the content of one. Photos have no differences.
    """
    if not clips:
        return {"frames": config.frames, "rgb_diff": False}
    sees_frames = family.build is None and family.per == "frame" and config.task != "report"
    if not sees_frames or {"frames", "rgb_diff"} & config.model_fields_set:
        return {"frames": config.frames, "rgb_diff": config.rgb_diff}
    return {"frames": PAIR * config.frames, "rgb_diff": True}


def _check_differences(config: TrainConfig, family: Family) -> None:
    """Refuse difference images for models that cannot use them.

    Raises:
        SettingsError: for a window encoder or a vision-language model, for an odd number of frames, or for a single
            pair, in which a head that sees only changes has nothing to compare.
    """
    can = family.build is None and family.per == "frame" and config.frames % PAIR == 0 and config.frames >= 2 * PAIR
    if config.rgb_diff and not can:
        raise SettingsError(
            f"rgb_diff of clips of {config.frames} frames and {config.backbone}",
            allowed="clips of an even number of frames, four or more, and an encoder that sees one frame at a time",
            fix="leave rgb_diff out, or set frames",
        )


def rate_of_head(config: TrainConfig, family: Family) -> float | None:
    """Return the head's learning rate; None for reports, which have no head.

    It is lower for a head that starts at a probe, which is nearly right, than for one that starts at zero.
    """
    if config.optim.head_lr is not None or config.task == "report":
        return config.optim.head_lr
    is_linear = config.head.kind in ("auto", "linear", "segments", "motion")
    is_probe = config.head.start == "probe" and is_linear and family.build is None
    return 0.1 * DEFAULT_HEAD_LR if is_probe else DEFAULT_HEAD_LR


def _check_report_settings(config: TrainConfig) -> None:
    """Refuse settings that have no effect on a model that writes reports.

    Raises:
        SettingsError: such a setting is not at its default.
    """
    given, default = config.model_dump(), TrainConfig().model_dump()
    for name in OF_CLASSIFIERS:
        section, _, field = name.rpartition(".")
        values = [each[section][field] if section else each[field] for each in (given, default)]
        if (name, values[0]) in (
            ("optim.head_lr", DEFAULT_HEAD_LR),
            ("optim.class_weights", "none"),
        ):  # values stored by earlier versions
            continue
        if values[0] != values[1]:
            raise SettingsError(
                f"{name} {values[0]!r:.60} has no effect on a model that writes reports",
                allowed="its default",
                fix=f"leave {name} out, or train a classifier",
            )


def contract_from_config(config: TrainConfig, labels: Labels) -> Contract:
    """Return the contract of a resolved configuration."""
    pixel = {key: tuple(value) if isinstance(value, list) else value for key, value in config.pixel.items()}
    return Contract(
        task=config.task,
        pixel=pixel_spec(PixelSpec(), pixel),
        targets=labels.targets,
        time=TimeSpec(config.frames) if labels.clips else None,
        guidance=labels.guidance,
    )


def build_classifier(config: TrainConfig, contract: Contract, *, local_only: bool = False) -> TrainableModel:
    """Build a pretrained model with a fresh head, and without adapters.

    ``local_only`` is that of ``build_encoder``.
    """
    family = family_of(Source(config.backbone, local_only))
    family.check_pool(config.pool, config.backbone)
    build = family.build or build_clip_classifier
    return build(config, contract, local_only=local_only)


def build_reporter(config: TrainConfig, pixel: PixelSpec, *, local_only: bool = False) -> Reporter:
    """Build a pretrained model that writes reports, without adapters.

    Raises:
        SettingsError: the backbone is not a vision-language model.
    """
    family = family_of(Source(config.backbone, local_only))
    if family.backbone is None:
        raise SettingsError(
            f"backbone {config.backbone!r} does not generate text",
            allowed="Qwen2.5-VL, Qwen3-VL, compose:TOWER+LLM",
            fix="name a vision-language model, such as compose:efficientnet-lite0+smollm2-135m",
        )
    return Reporter(family.backbone(config, pixel, clips=False, with_token=False, local_only=local_only), config)


def build_clip_classifier(config: TrainConfig, contract: Contract, *, local_only: bool = False) -> ClipClassifier:
    """Build an encoder and a head, the model of every family without its own ``build``."""
    encoder = build_encoder(
        config.backbone,
        pixel=dataclasses.asdict(contract.pixel),
        pool=config.pool,
        frames=contract.frames,
        rgb_diff=config.rgb_diff,
        local_only=local_only,
    )
    encoder.requires_grad_(False)
    encoder.is_frozen = config.lora.last_blocks == 0
    return ClipClassifier(encoder, build_head(config, contract, encoder))


def build_head(config: TrainConfig, contract: Contract, encoder: Encoder) -> Head:
    """Build a fresh head behind an encoder.

    Raises:
        SettingsError: the head is incompatible with the encoder.
    """
    sees_order = contract.time is not None and not encoder.sees_windows  # a window encoder already uses it
    kind = config.head.kind
    if kind == "auto":
        kind = "segments" if sees_order else "linear"
    if kind == "transformer_no_vision":
        raise SettingsError(
            f"head {kind!r} behind {config.backbone!r}",
            allowed=f"auto, {', '.join(get_args(HeadKind))}",
            fix="set head.kind, or choose a vision-language model",
        )
    frames = None if encoder.sees_windows else contract.frames // encoder.group
    settings = config.head
    return Head(
        kind,
        width=encoder.width,
        frames=frames,
        targets=contract.targets,
        hidden=settings.hidden,
        layers=settings.layers,
        heads=settings.heads,
        dropout=settings.dropout,
    )
