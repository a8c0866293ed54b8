"""LoRA through PEFT on an encoder's projections: linear layers of attention and MLP, pointwise convolutions of a CNN.

Hu et al. 2021, https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import safetensors
from torch import nn

from vidrisk.models.efficientnet import FINE_BLOCKS
from vidrisk.models.encoders import FrameEncoder
from vidrisk.runtimes.errors import BundleError, SettingsError, VidriskError, require


def projection_names(backbone: nn.Module, last_blocks: int | None = None) -> list[str]:
    """Names of the layers that LoRA adapts, in the backbone's order.

    Args:
        backbone: any CNN or transformer.
        last_blocks: adapt only this many of the last blocks and whatever comes after them; earlier layers stay frozen and
            need no backward pass. None adapts all.

    Raises:
        SettingsError: nothing is left to adapt.
    """
    blocks = max((m for m in backbone.named_modules() if isinstance(m[1], nn.ModuleList)), key=lambda m: len(m[1]),
                 default=("", nn.ModuleList()))
    frozen = 0 if last_blocks is None else max(0, len(blocks[1]) - last_blocks)
    skipped = tuple(f"{blocks[0]}.{index}." for index in range(frozen))
    names = [name for name, module in backbone.named_modules()
             if _is_projection(module) and not name.startswith(skipped)]
    if not names:
        raise SettingsError(f"LoRA finds no projection to adapt in {type(backbone).__name__}", allowed="a CNN or a transformer")
    return names


def _is_projection(module: nn.Module) -> bool:
    pointwise = type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.groups == 1
    return type(module) is nn.Linear or pointwise


def add_lora(encoder: FrameEncoder, *, rank: int, alpha: float, dropout: float, last_blocks: int | None) -> None:
    """Freeze the encoder and put trainable LoRA layers into its backbone, in place."""
    peft: Any = require("peft", "train")
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout,
                             target_modules=projection_names(encoder.backbone, last_blocks))
    if hasattr(encoder.backbone, "lower") and last_blocks is not None:
        encoder.frozen_blocks = min(FINE_BLOCKS, max(0, len(encoder.backbone.blocks) - last_blocks))
    encoder.backbone = peft.get_peft_model(encoder.backbone, config)


def save_adapter(encoder: FrameEncoder, folder: Path) -> None:
    """Write the adapter (PEFT layout, safetensors); the backbone's own weights are not in it.

    Raises:
        VidriskError: the disk is full or may not be written.
    """
    backbone: Any = encoder.backbone
    try:
        backbone.save_pretrained(str(folder), safe_serialization=True)
    except (OSError, safetensors.SafetensorError) as error:
        raise VidriskError(f"{folder} cannot be written: {error}", fix="make room, then run again with --resume") from error
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card template, empty


def load_adapter(encoder: FrameEncoder, folder: Path, *, trainable: bool = False) -> None:
    """Put a saved adapter onto the encoder's fresh backbone, in place.

    Raises:
        BundleError: the adapter is missing, damaged, or made for another backbone.
    """
    peft: Any = require("peft", "train")
    safetensors: Any = require("safetensors", "train")
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file() or not (folder / "adapter_config.json").is_file():
        raise BundleError(f"{folder} holds no adapter", fix="train the run again, or copy it whole")
    fix = "use the backbone that the run was trained with"
    try:
        with safetensors.safe_open(str(weights), framework="pt") as file:
            saved = set(file.keys())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of missing keys, which the comparison below refuses
            adapted = peft.PeftModel.from_pretrained(encoder.backbone, str(folder), is_trainable=trainable)
    except (ValueError, RuntimeError, OSError, KeyError, TypeError, safetensors.SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BundleError(f"{folder} does not fit the backbone: {reason}", fix=fix) from error
    # PEFT skips a layer that only one side has.
    alone = sorted(saved ^ set(peft.get_peft_model_state_dict(adapted)))
    if alone:
        raise BundleError(f"{folder} does not fit the backbone: {len(alone)} layers without a partner, such as {alone[0]}",
                          fix=fix)
    encoder.backbone = adapted
