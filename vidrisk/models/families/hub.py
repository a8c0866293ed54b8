"""Vision towers of Hugging Face: their configuration, preprocessing and weights, from the hub or a folder, never their code."""

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
from vidrisk.runtimes.contract.errors import SettingsError, require
from vidrisk.runtimes.contract.specs import PixelSpec

log = logging.getLogger(__name__)

POOLS: tuple[Pool, ...] = ("auto", "cls", "mean", "pooler")
PREPROCESSOR = "preprocessor_config.json"
GENERATING = ("ForConditionalGeneration", "ForCausalLM")  # ends of class names
NEEDED = "it needs a config.json and model.safetensors of an image encoder"
Options = Callable[[PixelSpec, int], Mapping[str, Any]]


def hub_family(name: str, model_class: str, pool: Pool, *, aliases: tuple[str, ...] = (), pools: tuple[Pool, ...] = POOLS,
               size: str = "image_size", preprocessor: str = PREPROCESSOR, options: Options = lambda pixel, frames: {},
               unused: tuple[str, ...] = (), per: Literal["frame", "window"] = "frame", tubelet: int = 1,
               run: Callable[[Any, Tensor], Any] = lambda backbone, pixels: backbone(pixels), is_known: bool = True) -> Family:
    """Describe a family by what differs between towers of transformers.

    Args:
        model_class: name in ``transformers`` of the bare tower.
        size: field of the configuration that holds the side of an image.
        preprocessor: file of mean, deviation and filter.
        options: pixel and frames → further options of ``from_pretrained``.
        unused: children of the model that are dropped: their weights may be missing.
        is_known: weights that the checkpoint lacks are refused, or they would be random. A tower that we do not know may lack
            layers that we do not use.
    """
    return Family(name, pool, pools, pixel=partial(hub_pixel, size=size, preprocessor=preprocessor), per=per, tubelet=tubelet,
                  run=run, load=partial(_load_tower, model_class=model_class, options=options, unused=unused, is_known=is_known),
                  aliases=aliases)


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
            raise SettingsError(f"backbone {backbone!r} is not on this machine: {_first_line(error)}",
                                fix=f"download it once (`hf download {backbone}`): a run that is opened asks no network") from error
        raise SettingsError(f"unknown backbone {backbone!r}: {_first_line(error)}",
                            allowed="efficientnet-lite0, a Hugging Face hub id or a local folder",
                            fix="check the spelling and the network, or give a folder saved with save_pretrained") from error
    return config


def vision_config(config: Any, source: Source) -> Any:
    """Return the vision tower's part of a configuration; all of it where there is no other tower.

    Raises:
        SettingsError: the model generates text, and its tower alone would be another model.
    """
    tower = getattr(config, "vision_config", None)
    generates = any(str(name).endswith(GENERATING) for name in getattr(config, "architectures", None) or ())
    if tower is not None and generates:
        raise SettingsError(f"backbone {source.backbone!r} is a {config.model_type} model, which answers in text",
                            allowed="image and video encoders", fix="save its vision tower alone, and give that folder")
    return config if tower is None else tower


def hub_pixel(source: Source, *, size: str = "image_size", preprocessor: str = PREPROCESSOR) -> PixelSpec:
    """What a backbone was trained with; ImageNet's mean and deviation where nothing says."""
    side = getattr(vision_config(hub_config(source), source), size, 224)
    height, width = (side, side) if isinstance(side, int) else tuple(side)
    spec = PixelSpec(height, width)
    processing: Any = require("transformers.image_processing_base", "train")
    try:
        # Read, not built: some processors exist for torchvision alone.
        processor, _ = processing.ImageProcessingMixin.get_image_processor_dict(
            source.backbone, image_processor_filename=preprocessor, **source.options)
        mean, std = tuple(processor["image_mean"]), tuple(processor["image_std"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s has no image processor, ImageNet mean and std are taken: %s", source.backbone, _first_line(error))
        return spec
    bicubic = processor.get("resample") == 3  # PIL's numbering
    return dataclasses.replace(spec, mean=mean, std=std, interpolation="bicubic" if bicubic else "bilinear")


def refuse_adapter(source: Source, name: str) -> None:
    """Refuse weights with an adapter beside them: transformers hands its configuration to PEFT, which imports what that names.

    Args:
        name: of the source, for people.

    Raises:
        SettingsError: there is one.
    """
    utils: Any = require("transformers.utils", "train")
    if utils.find_adapter_config_file(source.backbone, local_files_only=source.local_only):
        raise SettingsError(f"{name} has an adapter_config.json", allowed="weights that are whole",
                            fix="merge the adapter into the weights, and save the model without it")


def _load_tower(source: Source, pixel: PixelSpec, frames: int, *, model_class: str, options: Options, unused: tuple[str, ...],
                is_known: bool) -> nn.Module:
    transformers: Any = require("transformers", "train")
    safetensors: Any = require("safetensors", "train")
    # safetensors only: a pickled checkpoint can run code.
    try:
        refuse_adapter(source, f"backbone {source.backbone!r}")
        with _quietly(transformers):
            tower, loaded = getattr(transformers, model_class).from_pretrained(
                source.backbone, use_safetensors=True, output_loading_info=True, **source.options, **options(pixel, frames))
    except (OSError, ValueError, AttributeError, RuntimeError, safetensors.SafetensorError) as error:
        raise SettingsError(f"backbone {source.backbone!r} cannot be loaded: {_first_line(error)}", fix=NEEDED) from error
    missing = sorted(name for name in loaded["missing_keys"] if not name.startswith(unused)) if is_known else []
    if missing:
        raise SettingsError(f"backbone {source.backbone!r} lacks {len(missing)} weights, such as {missing[0]}", fix=NEEDED)
    for child in unused:
        setattr(tower, child.removesuffix("."), nn.Identity())
    return tower  # type: ignore[no-any-return]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def _quietly(transformers: Any) -> Iterator[None]:
    """Without transformers' own bars and load reports; what matters in them is checked."""
    logs = transformers.utils.logging
    level = logs.get_verbosity()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        logs.enable_progress_bar()
