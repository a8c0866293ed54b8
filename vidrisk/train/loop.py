"""The training loop: LoRA and head jointly, thin on top of accelerate.

    check every file → standardise the head → epochs (train, validate, keep the best, checkpoint) → test → write the run

An epoch draws all its randomness from (seed, epoch), and a checkpoint holds weights and optimiser state, so a resumed run
takes the same steps as one that was never stopped.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vidrisk.models.config import TrainConfig
from vidrisk.models.trainable import TrainableModel
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import require
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.augment import augmented
from vidrisk.train.checkpoint import Checkpoint
from vidrisk.train.dataset import ClipDataset, moments_of
from vidrisk.train.failures import find_not_finite, make_batch_error
from vidrisk.train.history import Epoch
from vidrisk.train.objective import Objective
from vidrisk.train.passes import evaluate, standardise
from vidrisk.train.shares import Share
from vidrisk.train.strategies import open_accelerator, place_model, prepare, whole
from vidrisk.train.views import ViewDataset, views_from_clips

log = logging.getLogger(__name__)


def fit(model: TrainableModel, contract: Contract, config: TrainConfig, train: ClipDataset, val: ClipDataset | None, *,
        share: Share, checkpoint: Checkpoint, on_epoch: Callable[[Epoch], None], on_progress: OnProgress) -> list[Epoch]:
    """Train in place; at the end the model holds the weights of the best epoch, of the last one without validation samples.

    Args:
        share: of this process in the work.
        checkpoint: where state is kept; one that holds an unfinished run is continued.
        on_epoch: called after every epoch.
        on_progress: called with (what, done, total).

    Returns:
        The history, resumed epochs included.

    Raises:
        SettingsError: a loss or a gradient that is not finite.
    """
    accelerate: Any = require("accelerate", "train")
    optim = config.optim
    accelerator = open_accelerator(config, share)
    if config.gradient_checkpointing:
        model.checkpoint_gradients()
    accelerate.utils.set_seed(config.seed)
    place_model(accelerator, model, share)
    with accelerator.autocast():
        fitted = _views_or_clips(model, train, config, config.views, share, on_progress)
    judged = val and _views_or_clips(model, val, config, min(config.views, 1), share, on_progress)
    is_resumed = checkpoint.exists()
    if not is_resumed:
        standardise(model, fitted, config, share, on_progress)
    optimizer = torch.optim.AdamW(model.parameter_groups(optim))
    steps = math.ceil(math.ceil(len(train) / optim.batch_size) / optim.accumulate) * optim.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, steps, optim.warmup))
    objective = Objective.of(train.truth, contract, optim, share)
    shell, optimizer = prepare(accelerator, model, optimizer)
    plain: TrainableModel = accelerator.unwrap_model(shell)
    history = checkpoint.load(plain, optimizer, schedule) if is_resumed else []
    lap = _Lap(config, share, accelerator, shell, plain, optimizer, schedule, objective, on_progress)

    for epoch in range(len(history), optim.epochs):
        if _is_stale(history, optim.patience):
            log.info("no better validation %s for %d epochs: stopping", optim.metric, optim.patience)
            break
        kept = f"{checkpoint.folder} has the state after epoch {epoch}" if epoch else "no epoch was finished before"
        train_loss = lap.run(fitted, epoch + 1, [sample.title for sample in train.samples], kept)
        val_loss, metric = None, None
        if judged:
            val_loss, reports = evaluate(plain, contract, judged, config, share, on_progress)
            metric = float(np.mean([getattr(report, optim.metric) for report in reports.values()]))
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        history.append(Epoch(epoch + 1, train_loss, val_loss, metric, rates))
        checkpoint.save(plain, optimizer, schedule, history, is_best=best_epoch(history) == epoch + 1)
        on_epoch(history[-1])
    checkpoint.load_best(accelerator.unwrap_model(shell, keep_fp32_wrapper=False))
    return history


@dataclass(frozen=True)
class _Lap:
    """What an epoch works with: ``shell`` is the model as accelerate wraps it, ``plain`` the same without."""

    config: TrainConfig
    share: Share
    accelerator: Any
    shell: Any
    plain: TrainableModel
    optimizer: Any
    schedule: Any
    objective: Objective
    on_progress: OnProgress

    def run(self, data: ClipDataset | ViewDataset, epoch: int, names: Sequence[str], kept: str) -> float:
        """Train for an epoch, counted from 1; return the mean loss."""
        config, share, optim = self.config, self.share, self.config.optim
        require("accelerate", "train").utils.set_seed(seed := config.seed + 1000 * epoch, device_specific=True)
        draws = torch.Generator().manual_seed(seed + 1)
        own = draws if share.world == 1 else torch.Generator().manual_seed(seed + 2 + share.rank)
        if isinstance(data, ViewDataset):
            data.draw(draws)
        shuffler = torch.Generator().manual_seed(seed)
        batches = _shuffled(len(data), optim.batch_size, shuffler)
        # A process without a share of the last batch computes all the same, and counts for nothing.
        loader = DataLoader(data, batch_sampler=[share.of(batch) or batch[:1] for batch in batches], num_workers=config.workers,
                            generator=shuffler)
        self.shell.train()
        total = 0.0
        for done, (batch, (inputs, truth)) in enumerate(zip(batches, loader, strict=True)):
            self.on_progress(f"epoch {epoch}/{optim.epochs}", done, len(batches))
            inputs, truth = inputs.to(share.device), truth.to(share.device)
            if inputs.dtype == torch.uint8:
                inputs = augmented(moments_of(inputs, config.jitter, own), config.augment or (), own)
            self.plain.draw(draws)
            is_step = (done + 1) % optim.accumulate == 0 or done + 1 == len(batches)
            loss, logits, trouble = self._step(inputs, truth, batch, is_step)
            if trouble:
                mine = [names[number] for number in share.of(batch)]
                raise make_batch_error(trouble, epoch=epoch, batch=done + 1, bad=share.gather(find_not_finite(logits, mine)),
                               names=share.gather(mine), kept=kept)
            total += loss * len(batch)
        return total / len(data)

    def _step(self, inputs: Tensor, truth: Tensor, batch: Sequence[int],
              is_step: bool) -> tuple[float, tuple[Tensor, ...], str]:
        """Return the loss of a whole batch, this process's logits, and what is not finite, if anything.

        Args:
            is_step: whether the weights change; else gradients are added up alone.
        """
        accelerator, optimizer = self.accelerator, self.optimizer
        accelerator.sync_gradients = is_step
        is_sound = True
        with nullcontext() if is_step else accelerator.no_sync(self.shell):
            logits, further = self.shell(inputs)
            loss = self.objective.loss(logits, further, truth, batch)
            accelerator.backward(loss)
        value = self.share.mean(float(loss.detach()))
        if is_step:
            norm = accelerator.clip_grad_norm_(self.shell.parameters(), self.config.optim.clip_norm)
            is_sound = norm is None or math.isfinite(float(whole(norm)))
            if is_sound and math.isfinite(value):
                optimizer.step()
                self.schedule.step()
                optimizer.zero_grad()
        return value, logits, "loss" if not math.isfinite(value) else "" if is_sound else "gradient"


def _shuffled(count: int, size: int, shuffler: torch.Generator) -> list[list[int]]:
    """Batches of the numbers of samples in the order of an epoch, the same in all processes."""
    torch.empty((), dtype=torch.int64).random_(generator=shuffler)  # what a loader that shuffles draws first
    order = torch.randperm(count, generator=shuffler).tolist()
    return [order[begin : begin + size] for begin in range(0, count, size)]


def _views_or_clips(model: TrainableModel, data: ClipDataset, config: TrainConfig, views: int, share: Share,
                    on_progress: OnProgress) -> ViewDataset | ClipDataset:
    """The dataset in the form that costs least per epoch."""
    kinds = config.augment or ()
    if not kinds and data.jitter == 1:
        views = min(views, 1)  # others would be equal to it
    made = views_from_clips(model, data, views=views, kinds=kinds, jitter=data.jitter, seed=config.seed, room_mb=config.cache_mb,
                            share=share,
                            on_progress=lambda done, total: on_progress("running the frozen layers", done, total))
    if made is None:
        return data
    data.forget()
    return made


def _warm_cosine(step: int, steps: int, warmup: float) -> float:
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def best_epoch(history: list[Epoch]) -> int:
    """Number of the epoch with the best metric, the latest of equals; without a metric the last epoch."""
    return max(history, key=lambda e: (e.metric if e.metric is not None else 0.0, e.epoch)).epoch


def _is_stale(history: list[Epoch], patience: int | None) -> bool:
    metrics = [epoch.metric for epoch in history if epoch.metric is not None]
    return patience is not None and bool(metrics) and len(metrics) - 1 - metrics.index(max(metrics)) >= patience
