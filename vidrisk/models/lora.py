"""LoRA through PEFT on the modules that an encoder's family names by their paths.

Hu et al. 2021, https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn
from typing_extensions import Self

from vidrisk.models.encoders import Encoder
from vidrisk.models.weights import load_tensors
from vidrisk.runtimes.contract.contract import Sealed
from vidrisk.runtimes.contract.errors import BundleError, VidriskError, require


def add_lora(encoder: Encoder, *, rank: int, alpha: float, dropout: float, last_blocks: int | None) -> None:
    """Freeze the encoder and put trainable LoRA layers into its backbone, in place."""
    peft: Any = require("peft", "train")
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout)
    paths = encoder.family.lora_targets(encoder.backbone, last_blocks)
    if encoder.family.divisible and last_blocks is not None:
        encoder.frozen_blocks = min(encoder.family.divisible, max(0, len(encoder.backbone.blocks) - last_blocks))
    encoder.backbone = attach_lora(encoder.backbone, config, paths)


def attach_lora(backbone: nn.Module, config: Any, paths: Collection[str]) -> Any:
    """Wrap a backbone in a PEFT model that adapts the modules at these paths, and no others.

    PEFT takes a list of names for the ends of paths: ``layers.0.fc`` would reach into ``vision.layers.0.fc``.
    """
    peft: Any = require("peft", "train")
    config.target_modules = "|".join(map(re.escape, paths))
    adapted = peft.get_peft_model(backbone, config)
    config.target_modules = set(paths)  # for ``save_adapter``
    return adapted


def save_adapter(encoder: Encoder, folder: Path) -> None:
    """Write the adapter (PEFT layout, safetensors); the backbone's own weights are not in it.

    Raises:
        VidriskError: the disk is full or may not be written.
    """
    backbone: Any = encoder.backbone
    try:
        backbone.save_pretrained(str(folder), safe_serialization=True)
    except (OSError, safetensors.SafetensorError) as error:
        raise VidriskError(f"{folder} cannot be written: {error}", fix="make room, then run it again with resume") from error
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card template, empty


class AutoMapping(Sealed):
    """What PEFT notes of the adapted class. Nothing is imported by it."""

    base_model_class: str = Field(pattern=r"^[A-Za-z_]\w*$")
    parent_library: str = Field(pattern=r"^(transformers|vidrisk)(\.\w+)*$")


class AdapterConfig(BaseModel):
    """The part of ``adapter_config.json`` that shapes the adapter; everything else in it must be PEFT's default.

    A run may come from a stranger, and PEFT imports modules and builds other adapters as its configuration says. So that file
    chooses none of it: these values are checked, and the configuration is made of them anew.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    peft_type: Literal["LORA"]
    r: int = Field(ge=1, le=4096)
    lora_alpha: float = Field(gt=0, allow_inf_nan=False)
    lora_dropout: float = Field(ge=0, lt=1)
    target_modules: list[Annotated[str, Field(pattern=r"^\w+(\.\w+)*$", max_length=300)]] = Field(min_length=1)
    # Notes that change nothing.
    auto_mapping: AutoMapping | None = None
    base_model_name_or_path: str | None = None
    inference_mode: bool = False
    peft_version: str | None = None

    @model_validator(mode="after")
    def _rest_is_default(self) -> Self:
        defaults = require("peft", "train").LoraConfig().to_dict()
        for name, value in (self.model_extra or {}).items():
            if value != defaults.get(name) and value not in (None, False, {}, []):
                raise ValueError(f"{name} is {value!r}, which vidrisk does not use")
        return self


def read_adapter_config(path: Path) -> AdapterConfig:
    """
    Raises:
        BundleError: it is none that training writes.
    """
    try:
        return AdapterConfig.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = f"{'.'.join(map(str, first['loc']))} {first['msg']}".strip() if first else str(error)
        raise BundleError(f"{path} is damaged or foreign: {reason}", allowed="a LoRA adapter as `vidrisk train` writes it",
                          fix="train the run again, or copy it whole") from error


def load_adapter(encoder: Encoder, folder: Path, *, trainable: bool = False) -> None:
    """Put a saved adapter onto the encoder's fresh backbone, in place.

    Raises:
        BundleError: the adapter is missing, damaged, foreign, or made for another backbone.
    """
    peft: Any = require("peft", "train")
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file() or not (folder / "adapter_config.json").is_file():
        raise BundleError(f"{folder} holds no adapter", fix="train the run again, or copy it whole")
    read, saved = read_adapter_config(folder / "adapter_config.json"), load_tensors(weights)
    config = peft.LoraConfig(r=read.r, lora_alpha=read.lora_alpha, lora_dropout=read.lora_dropout, inference_mode=not trainable)
    fix = "use the backbone that the run was trained with"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of missing keys, which the comparison below refuses
            adapted = attach_lora(encoder.backbone, config, read.target_modules)
            peft.set_peft_model_state_dict(adapted, saved)
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BundleError(f"{folder} does not fit the backbone: {reason}", fix=fix) from error
    # PEFT skips a layer that only one side has.
    alone = sorted(set(saved) ^ set(peft.get_peft_model_state_dict(adapted)))
    if alone:
        raise BundleError(f"{folder} does not fit the backbone: {len(alone)} layers without a partner, such as {alone[0]}",
                          fix=fix)
    encoder.backbone = adapted
