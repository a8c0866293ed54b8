"""Program that a launcher starts several times; it trains the runs of a JSON file one after the other."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrisk.models.config import config_from_options
from vidrisk.train import loop
from vidrisk.train.shares import close_share, is_asked
from vidrisk.train.train_data import train_data
from vidrisk.train.views import ViewDataset


def die_in_second_epoch(rank: int) -> None:
    """Kill the process of this rank in its second epoch, as the kernel does when it needs memory."""
    run = loop._Lap.run

    def dying(self: Any, epoch: int, kept: str) -> float:
        if epoch == 2 and self.share.rank == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return run(self, epoch, kept)

    loop._Lap.run = dying  # type: ignore[method-assign]


def spoil(number: int) -> None:
    """Make the inputs of one sample NaN during training."""
    item = ViewDataset.__getitem__

    def spoilt(self: ViewDataset, index: int) -> tuple[Tensor, Tensor]:
        inputs, truth = item(self, index)
        return (inputs * float("nan") if index == number and torch.is_grad_enabled() else inputs), truth

    ViewDataset.__getitem__ = spoilt  # type: ignore[method-assign]


def main() -> None:
    if is_asked("DEEPSPEED"):
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled, for minutes
    for job in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        if "dies" in job:
            die_in_second_epoch(job["dies"])
        if "spoilt" in job:
            spoil(job["spoilt"])
        train_data(
            Path(job["data"]),
            config_from_options(None, job["settings"]),
            Path(job["out"]),
            resume=job.get("resume", False),
        )
    close_share()


if __name__ == "__main__":
    main()
