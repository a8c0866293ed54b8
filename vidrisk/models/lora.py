"""LoRA through PEFT, on the modules that an encoder's family selects by their paths.

Hu et al. 2021, https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn
from typing_extensions import Self

from vidrisk.export.convert.peft_library import require_peft
from vidrisk.models.config import LoraSettings
from vidrisk.models.encoders import Encoder
from vidrisk.models.weights import load_tensors
from vidrisk.runtimes.contract.contract import Sealed
from vidrisk.runtimes.contract.errors import BundleError, SettingsError, VidriskError, first_line


def add_lora(encoder: Encoder, lora: LoraSettings) -> None:
    """Freeze the encoder and add trainable LoRA layers to its backbone, in place."""
    paths = choose_paths(encoder.family.lora_targets(encoder.backbone, lora.last_blocks), lora)
    if encoder.family.divisible and lora.last_blocks is not None:
        encoder.frozen_blocks = min(encoder.family.divisible, max(0, len(encoder.backbone.blocks) - lora.last_blocks))
    encoder.backbone = attach_lora(encoder.backbone, peft_config_from_lora(lora), paths)


def peft_config_from_lora(lora: LoraSettings) -> Any:
    """Return PEFT's configuration of new adapters, without their target modules."""
    peft: Any = require_peft("train")
    return peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, use_dora=lora.dora, use_rslora=lora.rslora
    )


def choose_paths(paths: Sequence[str], lora: LoraSettings) -> list[str]:
    """Return the layers to adapt: those whose path ends in one of ``lora.targets``, or all.

    Raises:
        SettingsError: no path ends in a target; suggests similar names.
    """
    if lora.targets is None:
        return list(paths)
    for target in lora.targets:
        if not any(_ends_in(path, target) for path in paths):
            names = sorted({path.rpartition(".")[2] for path in paths})
            near = difflib.get_close_matches(target.rpartition(".")[2], names, n=3, cutoff=0.5)
            raise SettingsError(
                f"lora.targets {target!r} matches no layer that can be adapted",
                allowed=", ".join(near or names),
                fix="correct the name, or leave lora.targets out to adapt all of them",
            )
    return [path for path in paths if any(_ends_in(path, target) for target in lora.targets)]


def _ends_in(path: str, target: str) -> bool:
    return f".{path}".endswith(f".{target}")


def attach_lora(backbone: nn.Module, config: Any, paths: Collection[str]) -> Any:
    """Wrap a backbone in a PEFT model that adapts exactly the modules at these paths.

    The paths are passed as a pattern, because PEFT treats a list as suffixes of paths: ``layers.0.fc`` would also match
    ``vision.layers.0.fc``.
    """
    peft: Any = require_peft("train")
    config.target_modules = "|".join(map(re.escape, paths))
    adapted = peft.get_peft_model(backbone, config)
    config.target_modules = set(paths)  # written by ``save_adapter``
    return adapted


def save_adapter(adapted: Any, folder: Path) -> None:
    """Write the adapter of a PEFT model (PEFT's layout, safetensors), without the backbone's own weights.

    Raises:
        VidriskError: the disk is full or not writable.
    """
    try:
        adapted.save_pretrained(str(folder), save_embedding_layers=False)
    except (OSError, safetensors.SafetensorError) as error:
        raise VidriskError(
            f"{folder} cannot be written: {error}", fix="make room, then run it again with resume"
        ) from error
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card template, empty


class AutoMapping(Sealed):
    """PEFT's record of the adapted class; nothing is imported because of it."""

    base_model_class: str = Field(pattern=r"^[A-Za-z_]\w*$")
    parent_library: str = Field(pattern=r"^(transformers|vidrisk)(\.\w+)*$")


class AdapterConfig(BaseModel):
    """The part of ``adapter_config.json`` that shapes the adapter; everything else in it must be PEFT's default.

    A run may come from an untrusted source, and PEFT imports modules and builds other adapters according to its
    configuration. The file must not control that: these values are validated, and a new configuration is built from
    them.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    peft_type: Literal["LORA"]
    r: int = Field(ge=1, le=4096)
    lora_alpha: float = Field(gt=0, allow_inf_nan=False)
    lora_dropout: float = Field(ge=0, lt=1)
    target_modules: list[Annotated[str, Field(pattern=r"^\w+(\.\w+)*$", max_length=300)]] = Field(min_length=1)
    use_dora: bool = False
    use_rslora: bool = False
    trainable_token_indices: list[Annotated[int, Field(ge=0)]] | None = Field(None, max_length=64)
    # Metadata without effect.
    auto_mapping: AutoMapping | None = None
    base_model_name_or_path: str | None = None
    inference_mode: bool = False
    peft_version: str | None = None

    @model_validator(mode="after")
    def _rest_is_default(self) -> Self:
        defaults = require_peft("train").LoraConfig().to_dict()
        for name, value in (self.model_extra or {}).items():
            if value != defaults.get(name) and value not in (None, False, {}, []):
                raise ValueError(f"{name} is {value!r}, which vidrisk does not use")
        return self


def read_adapter_config(path: Path) -> AdapterConfig:
    """Read and validate ``adapter_config.json``.

    Raises:
        BundleError: training does not write such a configuration.
    """
    try:
        return AdapterConfig.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = f"{'.'.join(map(str, first['loc']))} {first['msg']}".strip() if first else str(error)
        raise BundleError(
            f"{path} is damaged or foreign: {reason}",
            allowed="a LoRA adapter as `vidrisk train` writes it",
            fix="train the run again, or copy it whole",
        ) from error


def load_adapter(backbone: nn.Module, folder: Path, *, trainable: bool = False) -> Any:
    """Load a saved adapter into a fresh backbone, in place; return the PEFT model.

    Raises:
        BundleError: the adapter is missing, damaged, foreign, or made for another backbone.
    """
    peft: Any = require_peft("train")
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file() or not (folder / "adapter_config.json").is_file():
        raise BundleError(f"{folder} holds no adapter", fix="train the run again, or copy it whole")
    read, saved = read_adapter_config(folder / "adapter_config.json"), load_tensors(weights)
    config = peft.LoraConfig(
        r=read.r,
        lora_alpha=read.lora_alpha,
        lora_dropout=read.lora_dropout,
        use_dora=read.use_dora,
        use_rslora=read.use_rslora,
        trainable_token_indices=read.trainable_token_indices,
        inference_mode=not trainable,
    )
    fix = "use the backbone that the run was trained with"
    here, made_for = type(backbone).__name__, read.auto_mapping and read.auto_mapping.base_model_class
    if made_for not in (None, here):  # equal names and sizes of layers prove nothing
        raise BundleError(
            f"{folder} does not fit the backbone: it was made for {made_for}, and this is {here}", fix=fix
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about missing keys, which the comparison below refuses
            adapted = attach_lora(backbone, config, read.target_modules)
            peft.set_peft_model_state_dict(adapted, saved)
    except (ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        reason = first_line(error)
        raise BundleError(f"{folder} does not fit the backbone: {reason}", fix=fix) from error
    # PEFT silently skips layers that only one side has.
    alone = sorted(set(saved) ^ set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)))
    if alone:
        raise BundleError(
            f"{folder} does not fit the backbone: {len(alone)} layers have no counterpart, such as {alone[0]}", fix=fix
        )
    return adapted
