"""The training loop for any ``Work``, a thin layer on top of accelerate.

    prepare → standardise → judge the starting weights → epochs (train, judge, keep the best, checkpoint)

An epoch draws all its randomness from (seed, epoch), and a checkpoint holds weights and optimiser state, so a resumed
run takes the same steps as one that was never stopped.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vidrisk.models.config import TrainConfig
from vidrisk.models.trainable import Trainable
from vidrisk.runtimes.contract.errors import require
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.averaging import WeightAverage
from vidrisk.train.checkpoint import Checkpoint
from vidrisk.train.failures import find_not_finite, make_batch_error
from vidrisk.train.history import Epoch, best_epoch, is_stale
from vidrisk.train.shares import Share
from vidrisk.train.strategies import open_accelerator, place_model, prepare, whole
from vidrisk.train.work import Draws, Work

log = logging.getLogger(__name__)


def fit(
    model: Trainable,
    work: Work,
    config: TrainConfig,
    *,
    share: Share,
    checkpoint: Checkpoint,
    on_epoch: Callable[[Epoch], None],
    on_progress: OnProgress,
) -> list[Epoch]:
    """Train in place; at the end the model holds the weights of the best epoch.

    Without validation samples these are the weights of the last epoch. If training starts with weights that already
    give useful predictions, these are epoch 0, a candidate like the others. With ``optim.average``, averages of the
    weights are judged and kept in their place.

    Args:
        model: the model to train.
        work: the work of the model.
        config: settings of the run.
        share: this process's share of the work.
        checkpoint: where the state is kept; an unfinished run in it is continued.
        on_epoch: called after every epoch, including epoch 0.
        on_progress: called with (what, done, total).

    Returns:
        The history, including resumed epochs.

    Raises:
        SettingsError: a loss or a gradient is not finite; what ``open_accelerator`` refuses.
    """
    accelerate: Any = require("accelerate", "train")
    optim = config.optim
    accelerator = open_accelerator(config, share)
    if config.gradient_checkpointing:
        model.checkpoint_gradients()
    accelerate.utils.set_seed(config.seed)
    place_model(accelerator, model, share)
    with accelerator.autocast():
        work.prepare(on_progress)
    is_resumed = checkpoint.exists()
    if not is_resumed:
        work.standardise(on_progress)
    optimizer = torch.optim.AdamW(model.parameter_groups(optim), fused=True)
    steps = math.ceil(math.ceil(len(work.names) / optim.batch_size) / optim.accumulate) * optim.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, steps, optim.warmup))
    shell, optimizer = prepare(accelerator, model, optimizer)
    plain: Trainable = accelerator.unwrap_model(shell)
    average = WeightAverage(plain, optim.average)
    history = checkpoint.load(plain, average, optimizer, schedule) if is_resumed else []
    if not is_resumed and work.begins_trained and (judged := work.judge(on_progress)):
        history.append(Epoch(0, None, judged.loss, judged.metric))
        checkpoint.save_start(plain)
        on_epoch(history[-1])
    lap = _Lap(config, share, accelerator, shell, plain, average, optimizer, schedule, work, on_progress)

    for epoch in range(history[-1].epoch if history else 0, optim.epochs):
        if is_stale(history, optim.patience):
            log.info("no better validation %s for %d epochs: stopping", work.metric, optim.patience)
            break
        kept = f"{checkpoint.folder} has the state after epoch {epoch}" if epoch else "no epoch was finished before"
        train_loss = lap.run(epoch + 1, kept)
        with average.applied():
            judged = work.judge(on_progress)
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        val_loss, metric = (judged.loss, judged.metric) if judged else (None, None)
        history.append(Epoch(epoch + 1, train_loss, val_loss, metric, rates))
        checkpoint.save(plain, average, optimizer, schedule, history, is_best=best_epoch(history) == epoch + 1)
        on_epoch(history[-1])
    checkpoint.load_best(accelerator.unwrap_model(shell, keep_fp32_wrapper=False))
    return history


@dataclass(frozen=True)
class _Lap:
    """The objects of an epoch: ``shell`` is the model as wrapped by accelerate, ``plain`` the unwrapped one."""

    config: TrainConfig
    share: Share
    accelerator: Any
    shell: Any
    plain: Trainable
    average: WeightAverage
    optimizer: Any
    schedule: Any
    work: Work
    on_progress: OnProgress

    def run(self, epoch: int, kept: str) -> float:
        """Train for one epoch, counted from 1; return the mean loss."""
        config, share, optim, work = self.config, self.share, self.config.optim, self.work
        require("accelerate", "train").utils.set_seed(seed := config.seed + 1000 * epoch, device_specific=True)
        shared = torch.Generator().manual_seed(seed + 1)
        own = shared if share.world == 1 else torch.Generator().manual_seed(seed + 2 + share.rank)
        draws = Draws(shared, own, torch.Generator().manual_seed(seed))
        batches = work.batches(optim.batch_size, draws.order)
        self.shell.train()
        total = 0.0
        for done, (batch, inputs) in enumerate(zip(batches, work.inputs(batches, draws), strict=True)):
            self.on_progress(f"epoch {epoch}/{optim.epochs}", done, len(batches))
            self.plain.draw(shared)
            is_step = (done + 1) % optim.accumulate == 0 or done + 1 == len(batches)
            loss, outputs, trouble = self._step(inputs, batch, is_step)
            if trouble:
                mine = [work.names[number] for number in share.of(batch)]
                raise make_batch_error(
                    trouble,
                    epoch=epoch,
                    batch=done + 1,
                    bad=share.gather(find_not_finite(outputs, mine)),
                    names=share.gather(mine),
                    kept=kept,
                )
            total += loss * len(batch)
        return total / len(work.names)

    def _step(self, inputs: Any, batch: Sequence[int], is_step: bool) -> tuple[float, tuple[Tensor, ...], str]:
        """Return the loss of a whole batch, the outputs of this process, and what is not finite (or "").

        If ``is_step`` is false, the gradients are only accumulated, and the weights do not change.
        """
        accelerator, optimizer = self.accelerator, self.optimizer
        accelerator.sync_gradients = is_step
        is_sound = True
        with nullcontext() if is_step else accelerator.no_sync(self.shell):
            loss, outputs = self.work.loss(self.shell, inputs, batch)
            accelerator.backward(loss)
        value = self.share.mean(float(loss.detach()))
        if is_step:
            norm = accelerator.clip_grad_norm_(self.shell.parameters(), self.config.optim.clip_norm)
            is_sound = norm is None or math.isfinite(float(whole(norm)))
            if is_sound and math.isfinite(value):
                optimizer.step()
                self.schedule.step()
                self.average.update(self.schedule.last_epoch)
                optimizer.zero_grad()
        return value, outputs, "loss" if not math.isfinite(value) else "" if is_sound else "gradient"


def _warm_cosine(step: int, steps: int, warmup: float) -> float:
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
