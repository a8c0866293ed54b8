"""LoRA through PEFT on an encoder's projections: linear layers of attention and MLP, pointwise convolutions of a CNN.

Hu et al. 2021, https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from vidrisk.models.encoders import FrameEncoder
from vidrisk.runtimes.errors import BundleError, SettingsError, require


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
        encoder.frozen_blocks = max(0, len(encoder.backbone.blocks) - last_blocks)
    encoder.backbone = peft.get_peft_model(encoder.backbone, config)


def save_adapter(encoder: FrameEncoder, folder: Path) -> None:
    """Write the adapter (PEFT layout, safetensors); the backbone's own weights are not in it."""
    backbone: Any = encoder.backbone
    backbone.save_pretrained(str(folder), safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card template, empty


def load_adapter(encoder: FrameEncoder, folder: Path, *, trainable: bool = False) -> None:
    """Put a saved adapter onto the encoder's fresh backbone, in place.

    Raises:
        BundleError: the adapter is missing, damaged, or made for another backbone.
    """
    peft: Any = require("peft", "train")
    if not (folder / "adapter_model.safetensors").is_file():
        raise BundleError(f"{folder} holds no adapter", fix="train the run again, or copy it whole")
    try:
        encoder.backbone = peft.PeftModel.from_pretrained(encoder.backbone, str(folder), is_trainable=trainable)
    except (ValueError, RuntimeError, OSError) as error:
        raise BundleError(f"{folder} does not fit the backbone: {str(error).splitlines()[0]}",
                          fix="use the backbone that the run was trained with") from error
