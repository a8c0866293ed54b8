"""Trackers for the curves of a run: TensorBoard files in its folder, and optionally Weights & Biases."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from vidrisk.models.config import TrainConfig
from vidrisk.runtimes.contract.errors import VidriskError, first_line, require
from vidrisk.train.history import Epoch

log = logging.getLogger(__name__)

PROJECT = "vidrisk"


class Tracker(Protocol):
    def log(self, values: dict[str, float], step: int) -> None: ...

    def close(self) -> None: ...


def check_trackers(config: TrainConfig) -> None:
    """Refuse a tracker whose package is not installed.

    Raises:
        MissingExtra: the package is missing.
    """
    if "wandb" in config.trackers:
        require("wandb", "wandb")


def open_trackers(config: TrainConfig, out: Path) -> list[Tracker]:
    """Open the trackers that the configuration lists.

    Raises:
        VidriskError: Weights & Biases cannot be reached, or requires an account.
    """
    makers: dict[str, Callable[[TrainConfig, Path], Tracker]] = {"tensorboard": _TensorBoard, "wandb": _Wandb}
    return [makers[name](config, out) for name in config.trackers]


def track_epoch(trackers: Sequence[Tracker], epoch: Epoch, metric: str) -> None:
    """Write the figures of an epoch."""
    log.info("%s", epoch)
    values = {f"lr/{name}": rate for name, rate in epoch.lr.items()}
    if epoch.train_loss is not None:
        values["loss/train"] = epoch.train_loss
    if epoch.metric is not None and epoch.val_loss is not None:
        values |= {"loss/val": epoch.val_loss, f"val/{metric}": epoch.metric}
    for tracker in trackers:
        tracker.log(values, epoch.epoch)


class _TensorBoard:
    def __init__(self, config: TrainConfig, out: Path) -> None:
        self.writer: Any = require("torch.utils.tensorboard", "train").SummaryWriter(str(out / "tensorboard"))

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    """Weights & Biases, by accelerate's tracker.

    Its own variables control what it sends: ``WANDB_MODE=offline`` keeps everything in the run.
    """

    def __init__(self, config: TrainConfig, out: Path) -> None:
        wandb: Any = require("wandb", "wandb")
        tracking: Any = require("accelerate.tracking", "train")
        try:
            self.tracker = tracking.WandBTracker(PROJECT, name=out.name, dir=str(out))
            if hasattr(self.tracker, "start"):  # accelerate before 1.7 starts at once
                self.tracker.start()
            self.tracker.store_init_configuration(config.model_dump(mode="json"))
        except wandb.Error as error:
            raise VidriskError(
                f"Weights & Biases cannot be used: {first_line(error)}",
                fix="log in (`wandb login`), set WANDB_MODE=offline, or leave wandb out of trackers",
            ) from error

    def log(self, values: dict[str, float], step: int) -> None:
        self.tracker.log(values, step=step)

    def close(self) -> None:
        self.tracker.finish()
