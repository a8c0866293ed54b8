"""Merging of adapters into the weights that they adapt, and folding of batch norms into their convolutions."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vidrisk.export.convert.peft_library import require_peft
from vidrisk.runtimes.contract.errors import RuntimeFailure


def has_adapter(module: nn.Module) -> bool:
    """Return whether any part of the module is a PEFT model or an unmerged LoRA layer."""
    return any(
        hasattr(part, name) for part in module.modules() for name in ("merge_and_unload", "lora_A", "token_adapter")
    )


def merge_trained(module: nn.Module) -> nn.Module:
    """Return the module without adapters and without batch norms after convolutions; the original is unchanged.

    Unchanged weights are shared with the original: additional memory is only needed for adapted weights, not for the
    model.

    Raises:
        RuntimeFailure: merging makes weights that are not finite, or leaves adapter layers behind.
    """
    plain = merge_adapters(_copy_sharing_weights(module)).eval()
    _fold_batch_norms(plain)
    return plain


def merge_adapters(module: nn.Module) -> nn.Module:
    """Add every adapter in a module to the weights that it adapts, in place.

    PEFT models become their base models; standalone PEFT layers, in a part of such a model, become plain layers.

    Returns:
        The module, or its base model if it is a PEFT model itself.

    Raises:
        RuntimeFailure: as ``merge_trained``.
    """
    peft: Any = require_peft("export")
    result = nn.ModuleDict({"module": module})  # the module itself may be a PEFT model
    try:
        for name, part in list(result.named_modules()):
            if isinstance(part, peft.PeftModel):
                _replace(result, name, part.merge_and_unload(safe_merge=True))
        for name, part in list(result.named_modules()):
            if hasattr(part, "unload_and_optionally_merge_module"):
                _replace(
                    result,
                    name,
                    part.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None),
                )
            elif hasattr(part, "lora_A") and hasattr(part, "base_layer"):
                part.merge(safe_merge=True)
                _replace(result, name, part.get_base_layer())
    except ValueError as error:
        raise RuntimeFailure(
            f"the adapter cannot be merged: {error}", fix="train again: its weights are broken"
        ) from error
    if has_adapter(result):
        raise RuntimeFailure("adapter layers are left after merging", fix="load the run with PEFT's own LoRA layers")
    return result["module"]


def _replace(root: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, part)


def _copy_sharing_weights(module: nn.Module) -> nn.Module:
    """Copy a module with new parameters and buffers over the same memory.

    Assigning new values to the copy leaves the original unchanged; ``safe_merge`` assigns values and does not write in
    place.
    """
    shared: dict[int, Any] = {}
    for tensor in chain(module.parameters(), module.buffers()):
        if id(tensor) not in shared:
            alias = tensor.detach()
            is_trained = tensor.requires_grad and not tensor.is_inference()  # inference tensors can have no gradient
            shared[id(tensor)] = nn.Parameter(alias, is_trained) if isinstance(tensor, nn.Parameter) else alias
    return copy.deepcopy(module, shared)


def _fold_batch_norms(module: nn.Module) -> None:
    """Fold each batch norm that follows a convolution in a sequence into it, in place."""
    for sequence in [part for part in module.modules() if isinstance(part, nn.Sequential)]:
        for index in range(len(sequence) - 1):
            convolution, norm = sequence[index], sequence[index + 1]
            if type(convolution) is nn.Conv2d and isinstance(norm, nn.BatchNorm2d):
                sequence[index], sequence[index + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
