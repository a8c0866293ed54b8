"""Placement of weights in training: whole in each process (one process, DDP, ZeRO-2), or sharded (FSDP2, ZeRO-3).

The launcher sets it by environment variables (``accelerate launch --config_file examples/accelerate/fsdp2.yaml``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from vidrisk.models.config import TrainConfig
from vidrisk.models.trainable import Trainable
from vidrisk.runtimes.contract.errors import SettingsError, require
from vidrisk.train.shares import Share, is_asked

log = logging.getLogger(__name__)


def open_accelerator(config: TrainConfig, share: Share) -> Any:
    """Return accelerate's ``Accelerator``, configured as the launcher requests.

    Raises:
        SettingsError: version 1 of FSDP; an average of weights that FSDP or DeepSpeed holds.
    """
    accelerate: Any = require("accelerate", "train")
    optim = config.optim
    if optim.average and (is_asked("DEEPSPEED") or (is_asked("FSDP") and share.world > 1)):
        raise SettingsError(
            "optim.average with FSDP or DeepSpeed", allowed="one process, or DDP", fix="leave optim.average out"
        )
    accelerator = accelerate.Accelerator(mixed_precision="bf16" if uses_bf16(config.precision) else "no")
    accelerator.gradient_accumulation_steps = optim.accumulate  # overrides the launcher's environment variable
    if is_asked("FSDP") and share.world > 1:
        _shard_on_cpu(accelerate, accelerator)
        if not accelerator.is_fsdp2:
            raise SettingsError(
                "FSDP of version 1", allowed="fsdp_version: 2", fix="correct the configuration of accelerate"
            )
    if is_asked("DEEPSPEED"):
        accelerator.state.deepspeed_plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": max(1, optim.batch_size // share.world),
            "gradient_clipping": optim.clip_norm,
            "gradient_accumulation_steps": optim.accumulate,
        }
    return accelerator


def _shard_on_cpu(accelerate: Any, accelerator: Any) -> None:
    """Turn FSDP on for CPUs, where accelerate leaves it off although it and torch support sharding there."""
    if accelerator.distributed_type != accelerate.DistributedType.MULTI_CPU:
        return
    plugin = accelerate.FullyShardedDataParallelPlugin()
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)
    for state in (accelerate.state.AcceleratorState, accelerate.state.PartialState):
        state._shared_state |= {"fsdp_plugin": plugin, "distributed_type": accelerate.DistributedType.FSDP}


def place_model(accelerator: Any, model: Trainable, share: Share) -> None:
    """Move a model to the device of this process, unless it is to be sharded there: it may not fit whole."""
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    if not (accelerator.is_fsdp2 or (plugin is not None and plugin.zero_stage == 3)):
        model.to(share.device)
    elif share.device.type != "cpu":
        log.warning(
            "weights are to be sharded: passes before the first step run on the CPU, which takes long for a large "
            "language model; ZeRO-2 or DDP run them on the GPU"
        )


def prepare(accelerator: Any, model: Trainable, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
    """Return the model and the optimiser as wrapped for training."""
    if accelerator.is_fsdp2:  # the layers whose weights are gathered one after the other
        model._no_split_modules = sorted({type(block).__name__ for block in model.blocks()})  # type: ignore[assignment]
    prepared: tuple[Any, Any] = accelerator.prepare(model, optimizer)
    return prepared


def uses_bf16(precision: str) -> bool:
    """Return whether to train in bfloat16; ``auto`` depends on the hardware."""
    if precision == "auto":
        if torch.cuda.is_available():
            return bool(torch.cuda.is_bf16_supported())
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # native, not emulated
    return precision == "bf16"


def is_sharded(model: nn.Module) -> bool:
    """Return whether the weights are sharded, and gathered in ``forward`` only."""
    return isinstance(model, FSDPModule) or any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def reshard(model: nn.Module) -> None:
    """Free gathered parameters: FSDP2 leaves some unsharded after a forward pass without a backward pass."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor gathered from all processes; a collective call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def gather_weights(model: Trainable) -> Iterator[None]:
    """Gather sharded trained weights while the block runs; all processes have to take part.

    In the main process, changes to weights in shards of ZeRO-3 are kept.
    """
    reshard(model)
    trained = {id(p) for name, p in model.named_parameters() if p.requires_grad or name.startswith(model.own_parts)}
    shards: list[tuple[nn.Module, str, Any]] = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if isinstance(parameter, DTensor) and id(parameter) in trained
    ]
    found = {id(parameter): nn.Parameter(whole(parameter), parameter.requires_grad) for _, _, parameter in shards}
    partitioned = [p for p in model.parameters() if id(p) in trained and hasattr(p, "ds_id")]
    gathered: Any = nullcontext()
    if partitioned:
        gathered = require("deepspeed", "deepspeed").zero.GatheredParameters(partitioned, modifier_rank=0)
    with gathered:
        for module, name, parameter in shards:
            module._parameters[name] = found[id(parameter)]
        try:
            yield
        finally:
            for module, name, parameter in shards:
                module._parameters[name] = parameter


def load_weights(model: Trainable, weights: Mapping[str, Tensor]) -> list[str]:
    """Load whole tensors into a model that may be sharded; return the names that the model lacks."""
    reshard(model)
    known = model.state_dict()
    fitting = {name: lay_out_as(value, known[name]) if name in known else value for name, value in weights.items()}
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        with gather_weights(model):
            return list(model.load_state_dict(fitting, strict=False).unexpected_keys)
    return list(model.load_state_dict(fitting, strict=False).unexpected_keys)


def lay_out_as(tensor: Tensor, other: object) -> Tensor:
    """Return a whole tensor, sharded like ``other`` if that is sharded."""
    if not isinstance(other, DTensor) or tensor.shape != other.shape:
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
