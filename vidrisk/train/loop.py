"""The training loop: LoRA and head jointly, thin on top of accelerate.

    check every file → standardise the head → epochs (train, validate, keep the best, checkpoint) → test → write the run

An epoch draws all its randomness from (seed, epoch), and a checkpoint holds weights and optimiser state, so a resumed run
takes the same steps as one that was never stopped.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from vidrisk.metrics.classification import Metrics, classification_report
from vidrisk.models.config import TrainConfig
from vidrisk.models.trainable import TrainableModel
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import SettingsError, require
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.augment import augmented
from vidrisk.train.checkpoint import Checkpoint
from vidrisk.train.dataset import ClipDataset, moments_of
from vidrisk.train.history import Epoch
from vidrisk.train.views import ViewDataset, clips_at_once, views_from_clips

log = logging.getLogger(__name__)

STANDARDISE_SAMPLES = 1024


def fit(model: TrainableModel, contract: Contract, config: TrainConfig, train: ClipDataset, val: ClipDataset | None, *,
        checkpoint: Checkpoint, on_epoch: Callable[[Epoch], None], on_progress: OnProgress) -> list[Epoch]:
    """Train in place; at the end the model holds the weights of the best epoch, of the last one without validation samples.

    Args:
        checkpoint: where state is kept; one that holds an unfinished run is continued.
        on_epoch: called after every epoch.
        on_progress: called with (what, done, total).

    Returns:
        The history, resumed epochs included.
    """
    accelerate: Any = require("accelerate", "train")
    optim = config.optim
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)  # or a second run here would inherit the precision
    accelerator = accelerate.Accelerator(mixed_precision="bf16" if uses_bf16(config.precision) else "no",
                                         gradient_accumulation_steps=optim.accumulate)
    if config.gradient_checkpointing:
        model.checkpoint_gradients()
    accelerate.utils.set_seed(config.seed)
    with accelerator.autocast():
        fitted = _views_or_clips(model, train, config, config.views, on_progress)
    judged = val and _views_or_clips(model, val, config, min(config.views, 1), on_progress)
    if not checkpoint.exists():
        _standardise(model, fitted, config, on_progress)
    optimizer = torch.optim.AdamW(model.parameter_groups(optim))
    steps = math.ceil(math.ceil(len(train) / optim.batch_size) / optim.accumulate) * optim.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, steps, optim.warmup))
    weights = _class_weights(train.truth.to(accelerator.device), contract, optim.class_weights)
    history = checkpoint.load(model, optimizer, schedule) if checkpoint.exists() else []
    shuffler = torch.Generator()
    loader = DataLoader(fitted, batch_size=optim.batch_size, shuffle=True, num_workers=config.workers, generator=shuffler)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    plain: TrainableModel = accelerator.unwrap_model(model)

    for epoch in range(len(history), optim.epochs):
        if _is_stale(history, optim.patience):
            log.info("no better validation %s for %d epochs: stopping", optim.metric, optim.patience)
            break
        accelerate.utils.set_seed(seed := config.seed + 1000 * (epoch + 1))
        shuffler.manual_seed(seed)
        draws = torch.Generator().manual_seed(seed + 1)
        if isinstance(fitted, ViewDataset):
            fitted.draw(draws)
        model.train()
        total, count = 0.0, 0
        for done, (inputs, truth) in enumerate(loader):
            on_progress(f"epoch {epoch + 1}/{optim.epochs}", done, len(loader))
            if inputs.dtype == torch.uint8:
                inputs = augmented(moments_of(inputs, config.jitter, draws), config.augment or (), draws)
            with accelerator.accumulate(model):
                loss = _loss(model(inputs), truth, weights, optim.label_smoothing)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), optim.clip_norm)
                optimizer.step()
                if accelerator.sync_gradients:
                    schedule.step()
                optimizer.zero_grad()
            total, count = total + float(loss.detach()) * len(truth), count + len(truth)
        if not math.isfinite(total):
            raise SettingsError(f"the loss of epoch {epoch + 1} is not finite", fix="lower optim.head_lr and optim.lora_lr")
        val_loss, metric = None, None
        if judged:
            val_loss, reports = evaluate(plain, contract, judged, config, on_progress)
            metric = float(np.mean([getattr(report, optim.metric) for report in reports.values()]))
        rates = [group["lr"] for group in optimizer.param_groups]
        history.append(Epoch(epoch + 1, total / count, val_loss, metric, rates[0], rates[-1]))
        checkpoint.save(plain, optimizer, schedule, history, is_best=best_epoch(history) == epoch + 1)
        on_epoch(history[-1])
    checkpoint.load_best(accelerator.unwrap_model(model, keep_fp32_wrapper=False))
    return history


def uses_bf16(precision: str) -> bool:
    """Whether to train in bfloat16; ``auto`` asks the processor."""
    if precision == "auto":
        if torch.cuda.is_available():
            return bool(torch.cuda.is_bf16_supported())
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # native, not emulated
    return precision == "bf16"


def _views_or_clips(model: TrainableModel, data: ClipDataset, config: TrainConfig, views: int,
                    on_progress: OnProgress) -> ViewDataset | ClipDataset:
    """The dataset in the form that costs least per epoch."""
    made = views_from_clips(model, data, views=views, kinds=config.augment or (), jitter=data.jitter,
                            seed=config.seed, room_mb=config.cache_mb,
                            on_progress=lambda done, total: on_progress("running the frozen layers", done, total))
    if made is None:
        return data
    data.forget()
    return made


@torch.inference_mode()
def evaluate(model: TrainableModel, contract: Contract, data: ClipDataset | ViewDataset, config: TrainConfig,
             on_progress: OnProgress) -> tuple[float, dict[str, Metrics]]:
    """Mean loss and a report per target name, on the contract's own moments, without augmentation, in float32."""
    model.eval()
    logits: list[list[Tensor]] = [[] for _ in contract.targets]
    device = next(model.parameters()).device
    done = 0
    for inputs in _batches(data, config):
        on_progress("validating", done, len(data))
        done += len(inputs)
        # Part by part: accelerate wraps forward, and only that, into the training precision.
        for collected, output in zip(logits, model.logits(model.features(inputs.to(device))), strict=True):
            collected.append(output.float().cpu())
    whole = tuple(torch.cat(parts) for parts in logits)
    loss = float(_loss(whole, data.truth, [None] * len(whole), 0.0))
    reports = {target.name: classification_report(data.truth[:, i].numpy(), whole[i].softmax(1).numpy(), target.labels,
                                                  ordered=target.ordered)
               for i, target in enumerate(contract.targets)}
    return loss, reports


def _batches(data: ClipDataset | ViewDataset, config: TrainConfig, most: int | None = None) -> Iterator[Tensor]:
    """The dataset in order, unaugmented: frames ``uint8 (B, T, H, W, 3)`` or views ``(B, T, …)``.

    With ``most``, so many samples at the most, evenly spread: a table is often sorted by class.
    """
    if isinstance(data, ViewDataset):
        data.draw(None)
    chosen = range(len(data)) if most is None or most >= len(data) else np.linspace(0, len(data) - 1, most).astype(int).tolist()
    for inputs, _ in DataLoader(Subset(data, chosen), batch_size=clips_at_once(data[0][0].shape[0]), num_workers=config.workers):
        yield inputs if isinstance(data, ViewDataset) else moments_of(inputs, data.jitter, None)


def _loss(logits: tuple[Tensor, ...], truth: Tensor, weights: list[Tensor | None], smoothing: float) -> Tensor:
    losses = [F.cross_entropy(output.float(), truth[:, i], weight=weights[i], label_smoothing=smoothing)
              for i, output in enumerate(logits)]
    return torch.stack(losses).mean()


def _warm_cosine(step: int, steps: int, warmup: float) -> float:
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _class_weights(truth: Tensor, contract: Contract, rule: str) -> list[Tensor | None]:
    """Per target a weight per class: the inverse frequency, or its square root, scaled to mean 1 over the samples."""
    if rule == "none":
        return [None] * len(contract.targets)
    weights: list[Tensor | None] = []
    for i, target in enumerate(contract.targets):
        counts = torch.bincount(truth[:, i], minlength=len(target.labels)).clamp_min(1).float()
        inverse = 1 / counts if rule == "balanced" else counts.rsqrt()
        weights.append(inverse * counts.sum() / (inverse * counts).sum())
    return weights


@torch.inference_mode()
def _standardise(model: TrainableModel, train: ClipDataset | ViewDataset, config: TrainConfig, on_progress: OnProgress) -> None:
    """Measure the training features once, so that the head starts on features of mean 0 and deviation 1."""
    model.eval()
    features: list[Tensor] = []
    for inputs in _batches(train, config, STANDARDISE_SAMPLES):
        on_progress("standardising", sum(map(len, features)), min(len(train), STANDARDISE_SAMPLES))
        features.append(model.features(inputs).float().flatten(0, -2))
    model.standardise_by(torch.cat(features))


def best_epoch(history: list[Epoch]) -> int:
    """Number of the epoch with the best metric, the latest of equals; without a metric the last epoch."""
    return max(history, key=lambda e: (e.metric if e.metric is not None else 0.0, e.epoch)).epoch


def _is_stale(history: list[Epoch], patience: int | None) -> bool:
    metrics = [epoch.metric for epoch in history if epoch.metric is not None]
    return patience is not None and bool(metrics) and len(metrics) - 1 - metrics.index(max(metrics)) >= patience
