"""Selection of modules for LoRA: linear layers of attention and MLP, and pointwise convolutions of a CNN."""

from __future__ import annotations

from torch import nn

from vidrisk.runtimes.contract.errors import SettingsError

LINEAR = (
    "Linear",
    "Linear4bit",
)  # the second is bitsandbytes'; other subclasses, as in torch's attention, cannot be adapted


def projection_names(backbone: nn.Module, last_blocks: int | None = None) -> list[str]:
    """Return the paths of the layers that LoRA adapts, in the backbone's order.

    Args:
        backbone: any CNN or transformer.
        last_blocks: adapt only this many of the last blocks and the layers after them; earlier layers stay frozen and
            need no backward pass. None adapts all.

    Raises:
        SettingsError: nothing is left to adapt.
    """
    blocks = max(
        (m for m in backbone.named_modules() if isinstance(m[1], nn.ModuleList)),
        key=lambda m: len(m[1]),
        default=("", nn.ModuleList()),
    )
    frozen = 0 if last_blocks is None else max(0, len(blocks[1]) - last_blocks)
    skipped = tuple(f"{blocks[0]}.{index}." for index in range(frozen))
    names = [
        name for name, module in backbone.named_modules() if _is_projection(module) and not name.startswith(skipped)
    ]
    if not names:
        raise SettingsError(
            f"LoRA finds no projection to adapt in {type(backbone).__name__}",
            allowed="a CNN, or a transformer made of linear layers",
        )
    return names


def _is_projection(module: nn.Module) -> bool:
    pointwise = type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.groups == 1
    return type(module).__name__ in LINEAR or pointwise
