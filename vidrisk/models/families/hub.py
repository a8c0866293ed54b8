"""Vision towers from Hugging Face: their configuration, preprocessing and weights, from the hub or a folder.

Their code is never run.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from vidrisk.models import Pool
from vidrisk.models.families.family import Family, Source
from vidrisk.models.hub_pixels import normalisation_from_preprocessor
from vidrisk.runtimes.contract.errors import DataError, SettingsError, first_line, require
from vidrisk.runtimes.contract.specs import PixelSpec

log = logging.getLogger(__name__)

OWN_ATTENTION = (None, "eager", "sdpa")  # implementations included in transformers and torch
POOLS: tuple[Pool, ...] = ("auto", "cls", "mean", "pooler")
PREPROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")
GENERATING = ("ForConditionalGeneration", "ForCausalLM")  # suffixes of class names
NEEDED = "it needs a config.json and model.safetensors of an image encoder"
Options = Callable[[PixelSpec, int], Mapping[str, Any]]
Fit = Callable[[Any, PixelSpec, int], None]


def hub_family(
    name: str,
    model_class: str,
    pool: Pool,
    *,
    aliases: tuple[str, ...] = (),
    pools: tuple[Pool, ...] = POOLS,
    size: str = "image_size",
    options: Options = lambda pixel, frames: {},
    unused: tuple[str, ...] = (),
    fit: Fit = lambda tower, pixel, frames: None,
    per: Literal["frame", "window"] = "frame",
    tubelet: int = 1,
    run: Callable[[Any, Tensor], Any] = lambda backbone, pixels: backbone(pixels),
    is_known: bool = True,
) -> Family:
    """Describe a family of towers of transformers.

    Args:
        name: model_type of the tower.
        model_class: name in ``transformers`` of the bare tower.
        pool: see ``Family``.
        aliases: see ``Family``.
        pools: see ``Family``.
        size: field of the configuration that holds the side of an image.
        options: pixel and frames → further options of ``from_pretrained``.
        unused: children of the model that are dropped: their weights may be missing.
        fit: changes a loaded tower, in place, to the pixels and the frames of a window; may raise SettingsError.
        per: see ``Family``.
        tubelet: see ``Family``.
        run: see ``Family``.
        is_known: refuse a checkpoint that lacks weights, which would be random. Unknown towers may lack layers that are
            not used.
    """
    load = partial(_load_tower, model_class=model_class, options=options, unused=unused, fit=fit, is_known=is_known)
    return Family(
        name,
        pool,
        pools,
        pixel=partial(hub_pixel, size=size),
        per=per,
        tubelet=tubelet,
        run=run,
        load=load,
        aliases=aliases,
    )


def hub_config(source: Source) -> Any:
    """Read a backbone's configuration.

    Raises:
        SettingsError: there is none.
        MissingExtra: transformers is not installed.
    """
    transformers: Any = require("transformers", "train")
    try:
        config = transformers.AutoConfig.from_pretrained(source.backbone, **source.options)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        backbone = source.backbone
        if source.local_only and not source.is_here:
            raise SettingsError(
                f"backbone {backbone!r} is not on this machine: {first_line(error)}",
                fix=f"download it once (`hf download {backbone}`): opening a run never accesses the network",
            ) from error
        raise SettingsError(
            f"unknown backbone {backbone!r}: {first_line(error)}",
            allowed="efficientnet-lite0, a Hugging Face hub id, a local folder or compose:TOWER+LLM",
            fix="check the spelling and the network, or give a folder saved with save_pretrained",
        ) from error
    return config


def vision_config(config: Any, source: Source) -> Any:
    """Return the vision tower's part of a configuration, or all of it if there is no other tower.

    Raises:
        SettingsError: the model generates text, and its tower alone would be another model.
    """
    tower = getattr(config, "vision_config", None)
    generates = any(str(name).endswith(GENERATING) for name in getattr(config, "architectures", None) or ())
    if tower is not None and generates:
        raise SettingsError(
            f"backbone {source.backbone!r} is a {config.model_type} model, which generates text",
            allowed="image and video encoders, Qwen2.5-VL, Qwen3-VL, LLaVA, compose:TOWER+LLM",
            fix="save its vision tower alone and give that folder, or name it as the TOWER of a composed model",
        )
    return config if tower is None else tower


def hub_pixel(source: Source, *, size: str = "image_size") -> PixelSpec:
    """Return the pixels that a backbone was trained with; mean and deviation default to those of ImageNet.

    Args:
        source: of the backbone.
        size: field of the configuration that holds the side of an image.
    """
    side = getattr(vision_config(hub_config(source), source), size, 224)
    height, width = (side, side) if isinstance(side, int) else tuple(side)
    spec = PixelSpec(height, width)
    try:
        return pixel_from_processor(source, spec)
    except DataError as error:
        log.warning(
            "%s has no image processor, using the mean and std of ImageNet: %s", source.backbone, first_line(error)
        )
        return spec


def pixel_from_processor(source: Source, spec: PixelSpec) -> PixelSpec:
    """Return a pixel contract with the mean, the deviation and the filter of a backbone's processor.

    Raises:
        DataError: there is no processor, or it has no valid values for them.
    """
    try:
        processor = _preprocessor(source)
        mean, std = normalisation_from_preprocessor(processor, {"model_type": hub_config(source).model_type})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(first_line(error)) from error
    bicubic = processor.get("resample") == 3  # PIL's numbering
    return dataclasses.replace(spec, mean=mean, std=std, interpolation="bicubic" if bicubic else "bilinear")


def _preprocessor(source: Source) -> dict[str, Any]:
    """Read the settings of an image processor, or else of a video processor.

    Raises:
        OSError: the checkpoint has neither.
        ValueError: the file does not hold an object.
    """
    processing: Any = require("transformers.image_processing_base", "train")
    missing: list[OSError] = []
    for name in PREPROCESSORS:
        try:
            # Only the settings are read: some processors can be built only with torchvision.
            settings, _ = processing.ImageProcessingMixin.get_image_processor_dict(
                source.backbone, image_processor_filename=name, **source.options
            )
        except OSError as error:
            missing.append(error)
        else:
            if not isinstance(settings, dict):
                raise ValueError(f"{name} holds a {type(settings).__name__} instead of settings")
            return settings
    raise missing[0]


def refuse_adapter(source: Source, name: str) -> None:
    """Refuse weights with an adapter beside them.

    transformers passes the adapter's configuration to PEFT, which imports the modules that it names.

    Args:
        source: of the weights.
        name: of the source, for messages.

    Raises:
        SettingsError: there is an adapter.
    """
    utils: Any = require("transformers.utils", "train")
    if utils.find_adapter_config_file(source.backbone, local_files_only=source.local_only):
        raise SettingsError(
            f"{name} has an adapter_config.json",
            allowed="merged weights",
            fix="merge the adapter into the weights, and save the model without it",
        )


def check_attention(config: Any, source: Source) -> None:
    """Refuse a configuration that asks for an attention implementation of its own.

    If it is named after a hub repository, transformers would fetch native code from there and run it.

    Raises:
        SettingsError: the implementation is not included in transformers or torch.
    """
    for part in (config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", ()))):
        asked = getattr(part, "_attn_implementation", None)
        if asked not in OWN_ATTENTION:
            raise SettingsError(
                f"config.json of backbone {source.backbone!r} asks for attention {str(asked)[:80]!r}",
                allowed="eager or sdpa",
                fix="remove attn_implementation from it",
            )


def _load_tower(
    source: Source,
    pixel: PixelSpec,
    frames: int,
    *,
    model_class: str,
    options: Options,
    unused: tuple[str, ...],
    fit: Fit,
    is_known: bool,
) -> nn.Module:
    tower: nn.Module = load_model(
        source, model_class, needed=NEEDED, unused=unused, is_known=is_known, **options(pixel, frames)
    )
    for child in unused:
        setattr(tower, child.removesuffix("."), nn.Identity())
    fit(tower, pixel, frames)
    return tower


def load_model(
    source: Source,
    model_class: str,
    *,
    needed: str,
    unused: tuple[str, ...] = (),
    is_known: bool = True,
    config: Any = None,
    **options: Any,
) -> Any:
    """Load a model of transformers with all its weights, from safetensors only: a pickled checkpoint can run code.

    Args:
        source: of the model.
        model_class: name in ``transformers``.
        needed: description of such a backbone, for messages.
        unused: prefixes of the names of weights that may be missing.
        is_known: refuse other missing weights, which would be random.
        config: replaces the checkpoint's own.
        **options: of ``from_pretrained``.

    Raises:
        SettingsError: it cannot be loaded, or lacks weights.
    """
    transformers: Any = require("transformers", "train")
    safetensors: Any = require("safetensors", "train")
    try:
        if config is None:
            config = transformers.AutoConfig.from_pretrained(source.backbone, **source.options)
        else:
            options["config"] = config
        check_attention(config, source)
        refuse_adapter(source, f"backbone {source.backbone!r}")
        with quietly(transformers):
            model, loaded = getattr(transformers, model_class).from_pretrained(
                source.backbone,
                use_safetensors=True,
                use_kernels=False,  # transformers 5.25 and newer would download native code on a GPU and run it
                output_loading_info=True,
                **source.options,
                **options,
            )
    except (OSError, ValueError, AttributeError, RuntimeError, ImportError, safetensors.SafetensorError) as error:
        raise SettingsError(
            f"backbone {source.backbone!r} cannot be loaded: {first_line(error)}", fix=needed
        ) from error
    missing = sorted(name for name in loaded["missing_keys"] if not name.startswith(unused)) if is_known else []
    if missing:
        raise SettingsError(
            f"backbone {source.backbone!r} lacks {len(missing)} weights, such as {missing[0]}", fix=needed
        )
    return model


@contextmanager
def quietly(transformers: Any) -> Iterator[None]:
    """Silence the progress bars and load reports of transformers; what matters in them is checked separately."""
    logs = transformers.utils.logging
    level = logs.get_verbosity()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        logs.enable_progress_bar()
