"""Training in several processes: the share of each in the work, and the exchange of their results.

A launcher (``accelerate launch``, ``torchrun``) starts the processes. All of them hold the whole table and draw the
same order of samples. Process r of n takes the samples r, r + n, r + 2n and so on of a batch; work done in chunks of
samples is divided by chunks in the same way. Tensors and JSON are exchanged; nothing is pickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vidrisk.runtimes.contract.errors import VidriskError, first_line, require

TIMEOUT = timedelta(hours=2)  # maximum time that a process may decode longer than the others
BYTES_AT_ONCE = 2**26
Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """One of ``world`` processes that train together; with ``world`` 1, the only one.

    Every method that exchanges data has to be called by all processes, in the same order.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Return every ``world``-th item, starting at this process's rank."""
        return list(items[self.rank :: self.world])

    def join(self, tensor: Tensor) -> Tensor:
        """Fill in, in place, the parts of a contiguous tensor that other processes hold.

        Each process has zeros where it holds nothing.
        """
        if self.world > 1 and tensor.numel():
            for part in torch.split(tensor.view(-1).view(torch.uint8), BYTES_AT_ONCE):  # bytes and zeros add up exactly
                summed = part.to(self.device)
                dist.all_reduce(summed)
                part.copy_(summed)
        return tensor

    def mean(self, value: float) -> float:
        """Return the mean of a figure over the processes."""
        if self.world == 1:
            return value
        values = torch.zeros(self.world, dtype=torch.float64)
        values[self.rank] = value
        return float(self.join(values).sum()) / self.world

    def gather(self, value: Any) -> list[Any]:
        """Return the JSON value of each process, in the order of ranks."""
        if self.world == 1:
            return [value]
        text = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = torch.zeros(self.world, dtype=torch.int64)
        lengths[self.rank] = len(text)
        texts = torch.zeros((self.world, int(self.join(lengths).max())), dtype=torch.uint8)
        texts[self.rank, : len(text)] = text
        return [json.loads(bytes(row[:length].tolist())) for row, length in zip(self.join(texts), lengths, strict=True)]

    def copy_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of the main process."""
        for tensor in tensors if self.world > 1 else ():
            sent = tensor.detach().to(self.device).contiguous()
            dist.broadcast(sent, src=0)
            with torch.no_grad():
                tensor.copy_(sent)

    def wait(self) -> None:
        """Wait until all processes have reached this call."""
        if self.world > 1:
            self.join(torch.zeros(1))


ALONE = Share()


class LostProcess(VidriskError):
    """Another training process has ended, possibly the one that reports errors."""


def open_share() -> Share:
    """Join the processes that a launcher started together.

    Raises:
        MissingExtra: accelerate is not installed, or DeepSpeed is requested but not installed.
        VidriskError: the others cannot be reached.
    """
    accelerate: Any = require("accelerate", "train")
    uses_deepspeed = is_asked("DEEPSPEED")
    if uses_deepspeed:
        require("deepspeed", "deepspeed")
    accelerate.state.AcceleratorState._reset_state(
        reset_partial_state=True
    )  # a previous run may have had another precision
    on_cpu = is_asked("CPU") or not torch.accelerator.is_available()
    backend = {"backend": "gloo"} if uses_deepspeed and on_cpu else {"cpu": on_cpu}
    try:
        state = accelerate.PartialState(**backend, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise VidriskError(
            f"the processes of this training cannot reach one another: {first_line(error)}",
            fix="check MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE, or the options of the launcher",
        ) from error
    return Share(state.process_index, state.num_processes, state.device)


def close_share() -> None:
    """Leave the process group at the end of a program."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_asked(what: str) -> bool:
    """Return whether the launcher requested CPU, FSDP or DEEPSPEED."""
    return os.environ.get(f"ACCELERATE_USE_{what}", "false").lower() in ("1", "true", "yes")


@contextmanager
def name_lost_processes() -> Iterator[None]:
    """Report in one line that another process has ended if an exchange with it fails.

    Raises:
        LostProcess: another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        is_lost = isinstance(error, dist.DistError) or "gloo" in text or "Connection closed by peer" in text
        if not (dist.is_initialized() and is_lost):
            raise
        raise LostProcess(
            "another process of this training has ended", fix="see its own error; then run it again with resume"
        ) from error
