"""Frame encoders: ``uint8 (N, H, W, 3)`` → features ``float32 (N, D)``, normalisation folded in.

A backbone is the embedded ``efficientnet-lite0``, a Hugging Face hub id, or a local folder in the same layout.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vidrisk.models import Pool, efficientnet
from vidrisk.runtimes.errors import SettingsError, require
from vidrisk.runtimes.specs import PixelSpec

log = logging.getLogger(__name__)

HUB_POOLS = ("auto", "cls", "mean", "pooler")



@dataclass(frozen=True)
class Family:
    """How a kind of Hugging Face vision model is loaded and summed up.

    Attributes:
        model_class: name in ``transformers`` of the bare vision tower.
        pool: what the family itself uses as an image's representation.
        skip_pooler: build the tower without its pooling layer, which these checkpoints do not train.
    """

    model_class: str
    pool: Pool
    skip_pooler: bool = False


# Keyed by the model_type of a config. A CLIP or SigLIP checkpoint holds two towers; only the vision tower is loaded.
# SigLIP 2 checkpoints of fixed resolution are published with model_type "siglip".
FAMILIES: dict[str, Family] = {
    "clip": Family("CLIPVisionModel", "pooler"),
    "clip_vision_model": Family("CLIPVisionModel", "pooler"),
    "siglip": Family("SiglipVisionModel", "pooler"),
    "siglip_vision_model": Family("SiglipVisionModel", "pooler"),
    "dinov2": Family("Dinov2Model", "pooler"),
    "dinov3_vit": Family("DINOv3ViTModel", "pooler"),
    "vit": Family("ViTModel", "cls", skip_pooler=True),
}


class FrameEncoder(nn.Module):
    """A backbone between the contract's pixels and its features.

    Args:
        backbone: normalised ``(N, 3, H, W)`` → a feature map ``(N, C, h, w)`` or a Hugging Face vision output.
        pixel: its mean and std become part of the graph.
        pool: how the backbone's output becomes one vector.
        family: the model_type, which names the export configuration.

    Attributes:
        width: D, size of a feature.
        frozen_blocks: blocks at the bottom that training leaves alone, in a backbone that can be run in two parts.
        is_frozen: training leaves the whole encoder alone.
    """

    scale: Tensor
    shift: Tensor
    backbone: Any

    def __init__(self, backbone: nn.Module, pixel: PixelSpec, *, pool: Pool, family: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.pool = pool
        self.family = family
        self.frozen_blocks = 0
        self.is_frozen = False
        mean, std = torch.tensor(pixel.mean), torch.tensor(pixel.std)
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1), persistent=False)
        with torch.inference_mode():
            probe = torch.zeros((1, *pixel.frame_shape), dtype=torch.uint8)
            self.width = int(self.eval()(probe).shape[1])

    def train(self, mode: bool = True) -> FrameEncoder:
        """Training mode, but for batch norms: their statistics belong to the pretrained weights."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def lower(self, frames: Tensor) -> Tensor:
        """The part below every trained layer, whose output can be kept between epochs; the frames where there is none.

        ``upper(lower(frames))`` is ``forward(frames)``.
        """
        if self.is_frozen:
            features: Tensor = self(frames)
            return features
        if self.frozen_blocks:
            hidden: Tensor = self.backbone.lower(self._pixels(frames), self.frozen_blocks)
            return hidden
        return frames

    def upper(self, hidden: Tensor) -> Tensor:
        if self.is_frozen:
            return hidden
        if self.frozen_blocks:
            return _pooled(self.backbone.upper(hidden, self.frozen_blocks), self.pool)
        features: Tensor = self(hidden)
        return features

    def forward(self, frames: Tensor) -> Tensor:
        return _pooled(self.backbone(self._pixels(frames)), self.pool)

    def _pixels(self, frames: Tensor) -> Tensor:
        # Cast, then permute: TensorRT takes a uint8 input into a Cast only.
        return frames.to(torch.float32).permute(0, 3, 1, 2) * self.scale + self.shift


def _pooled(output: Any, pool: Pool) -> Tensor:
    if isinstance(output, Tensor):
        output = (output,)
    if isinstance(output, tuple):  # feature maps, the finest first
        maps = output if pool == "stages" else output[-1:]
        means = [one.mean(dim=(2, 3)) for one in maps]
        return torch.cat([*means, *(one.amax(dim=(2, 3)) for one in maps)] if pool != "avg" else means, dim=1)
    if pool == "pooler":
        pooled: Tensor = output.pooler_output
        return pooled
    tokens: Tensor = output.last_hidden_state
    if tokens.ndim == 4:  # a convolutional Hugging Face model
        return tokens.mean(dim=(2, 3))
    return tokens[:, 0] if pool == "cls" else tokens.mean(dim=1)


def build_encoder(backbone: str, *, pixel: dict[str, Any] | None = None, pool: Pool = "auto") -> FrameEncoder:
    """Load a backbone and wrap it.

    Args:
        backbone: ``efficientnet-lite0``, a hub id, or a local folder.
        pixel: fields of ``PixelSpec`` that override what the backbone was trained with.
        pool: ``auto`` takes the family's own.

    Raises:
        SettingsError: an unknown backbone, or a pool that it does not have.
        MissingExtra: transformers or the embedded weights are not installed.
    """
    if backbone == efficientnet.NAME:
        spec = pixel_spec(efficientnet.PIXEL, pixel)
        if pool not in ("auto", "avg", "avgmax", "stages"):
            raise SettingsError(f"pool {pool!r} of {backbone}", allowed="auto, avg, avgmax, stages")
        trunk = efficientnet.load_efficientnet_lite(spec)
        return FrameEncoder(trunk, spec, pool="avg" if pool == "auto" else pool, family=backbone)
    return _hub_encoder(backbone, pixel, pool)


def default_pixel(backbone: str) -> PixelSpec:
    """What the backbone was trained with, as a ``PixelSpec``: its size, filter, mean and deviation."""
    return efficientnet.PIXEL if backbone == efficientnet.NAME else _hub_pixel(backbone, _hub_config(backbone))


def pixel_spec(base: PixelSpec, override: dict[str, Any] | None) -> PixelSpec:
    known = {field.name for field in dataclasses.fields(PixelSpec)}
    unknown = set(override or {}) - known
    if unknown:
        raise SettingsError(f"pixel.{sorted(unknown)[0]} is unknown", allowed=", ".join(sorted(known)))
    return dataclasses.replace(base, **(override or {}))


def _hub_config(backbone: str) -> Any:
    transformers: Any = require("transformers", "train")
    try:
        config = transformers.AutoConfig.from_pretrained(backbone)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"unknown backbone {backbone!r}: {_first_line(error)}",
                            allowed=f"{efficientnet.NAME}, a Hugging Face hub id or a local folder",
                            fix="check the spelling and the network, or give a folder saved with save_pretrained") from error
    return getattr(config, "vision_config", config)


def _hub_pixel(backbone: str, config: Any) -> PixelSpec:
    size = getattr(config, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    spec = PixelSpec(height, width)
    processing: Any = require("transformers.image_processing_base", "train")
    try:
        # Read, not built: some processors exist for torchvision alone.
        processor, _ = processing.ImageProcessingMixin.get_image_processor_dict(backbone)
        mean, std = tuple(processor["image_mean"]), tuple(processor["image_std"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s has no image processor, ImageNet mean and std are taken: %s", backbone, _first_line(error))
        return spec
    bicubic = processor.get("resample") == 3  # PIL's numbering
    return dataclasses.replace(spec, mean=mean, std=std, interpolation="bicubic" if bicubic else "bilinear")


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


def _hub_encoder(backbone: str, pixel: dict[str, Any] | None, pool: Pool) -> FrameEncoder:
    transformers: Any = require("transformers", "train")
    if pool not in HUB_POOLS:
        raise SettingsError(f"pool {pool!r} of {backbone}", allowed=", ".join(HUB_POOLS))
    config = _hub_config(backbone)
    spec = pixel_spec(_hub_pixel(backbone, config), pixel)
    if config.model_type not in FAMILIES:
        log.warning("%s is of family %s, which trains but is not registered for export (CONTRIBUTING: adding a backbone)", backbone,
                    config.model_type)
    family = FAMILIES.get(config.model_type, Family("AutoModel", "mean"))
    options: dict[str, Any] = {"add_pooling_layer": False} if family.skip_pooler else {}
    safetensors: Any = require("safetensors", "train")
    needed = "it needs a config.json and model.safetensors of an image encoder"
    # safetensors only: a pickled checkpoint can run code.
    try:
        with _quietly(transformers):
            tower, loaded = getattr(transformers, family.model_class).from_pretrained(
                backbone, use_safetensors=True, output_loading_info=True, **options)
    except (OSError, ValueError, AttributeError, RuntimeError, safetensors.SafetensorError) as error:
        raise SettingsError(f"backbone {backbone!r} cannot be loaded: {_first_line(error)}", fix=needed) from error
    # They would be random. A tower that we do not know may lack layers that we do not use.
    if config.model_type in FAMILIES and loaded["missing_keys"]:
        missing = sorted(loaded["missing_keys"])
        raise SettingsError(f"backbone {backbone!r} lacks {len(missing)} weights, such as {missing[0]}", fix=needed)
    try:
        return FrameEncoder(tower, spec, pool=family.pool if pool == "auto" else pool, family=config.model_type)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        size = f"{spec.height}x{spec.width}"
        raise SettingsError(f"backbone {backbone!r} does not encode {size} images with pool {pool!r}: {_first_line(error)}",
                            fix="choose an image encoder, and a size that it takes") from error
