"""The training loop: LoRA and head jointly, thin on top of accelerate.

    check every file → standardise the head → epochs (train, validate, keep the best, checkpoint) → test → write the run

An epoch draws all its randomness from (seed, epoch), and a checkpoint holds weights and optimiser state, so a resumed run
takes the same steps as one that was never stopped.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from vidrisk.metrics import Metrics, classification_report
from vidrisk.models.classifier import ClipClassifier
from vidrisk.runtimes.contract import Contract
from vidrisk.runtimes.errors import require
from vidrisk.train.augment import augmented
from vidrisk.train.checkpoint import Checkpoint
from vidrisk.train.config import OptimSettings, TrainConfig
from vidrisk.train.dataset import ClipDataset, moments_of

log = logging.getLogger(__name__)

OnProgress = Callable[[str, int, int], None]
STANDARDISE_SAMPLES = 1024


@dataclass(frozen=True)
class Epoch:
    """One line of a run's history."""

    epoch: int
    train_loss: float
    val_loss: float
    metric: float
    lora_lr: float
    head_lr: float


def fit(model: ClipClassifier, contract: Contract, config: TrainConfig, train: ClipDataset, val: ClipDataset, *,
        checkpoint: Checkpoint, on_epoch: Callable[[Epoch], None], on_progress: OnProgress) -> list[Epoch]:
    """Train in place; at the end the model holds the weights of the best epoch.

    Args:
        checkpoint: where state is kept; one that holds an unfinished run is continued.
        on_epoch: called after every epoch.
        on_progress: called with (what, done, total).

    Returns:
        The history, resumed epochs included.
    """
    accelerate: Any = require("accelerate", "train")
    optim = config.optim
    accelerator = accelerate.Accelerator(mixed_precision="bf16" if config.precision == "bf16" else "no",
                                         gradient_accumulation_steps=optim.accumulate)
    if config.gradient_checkpointing:
        _checkpoint_gradients(model)
    accelerate.utils.set_seed(config.seed)
    if not checkpoint.exists():
        _standardise(model, train, config, on_progress)
    optimizer = torch.optim.AdamW(_parameter_groups(model, optim), betas=(0.9, 0.999))
    steps = math.ceil(math.ceil(len(train) / optim.batch_size) / optim.accumulate) * optim.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, steps, optim.warmup))
    weights = _class_weights(train.truth, contract, optim.class_weights)
    history = checkpoint.load(model, optimizer, schedule) if checkpoint.exists() else []
    loader = DataLoader(train, batch_size=optim.batch_size, shuffle=True, num_workers=config.workers,
                        generator=(shuffler := torch.Generator()))
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    for epoch in range(len(history), optim.epochs):
        if _is_stale(history, optim.patience):
            log.info("no better validation %s for %d epochs: stopping", optim.metric, optim.patience)
            break
        accelerate.utils.set_seed(config.seed + 1000 * (epoch + 1))
        shuffler.manual_seed(config.seed + 1000 * (epoch + 1))
        draws = torch.Generator().manual_seed(config.seed + 1000 * (epoch + 1) + 1)
        model.train()
        total, count = 0.0, 0
        for done, (frames, truth) in enumerate(loader):
            on_progress(f"epoch {epoch + 1}/{optim.epochs}", done, len(loader))
            frames = augmented(moments_of(frames, config.jitter, draws), config.augment, draws)
            with accelerator.accumulate(model):
                loss = _loss(model(frames), truth, weights, optim.label_smoothing)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), optim.clip_norm)
                optimizer.step()
                if accelerator.sync_gradients:
                    schedule.step()
                optimizer.zero_grad()
            total, count = total + float(loss.detach()) * len(truth), count + len(truth)
        plain = accelerator.unwrap_model(model)
        val_loss, reports = evaluate(plain, contract, val, config, on_progress)
        metric = float(np.mean([getattr(report, optim.metric) for report in reports.values()]))
        lora_lr, head_lr = (group["lr"] for group in optimizer.param_groups)
        history.append(Epoch(epoch + 1, total / count, val_loss, metric, lora_lr, head_lr))
        checkpoint.save(plain, optimizer, schedule, history, is_best=metric >= max(e.metric for e in history))
        on_epoch(history[-1])
    checkpoint.load_best(accelerator.unwrap_model(model))
    return history


@torch.inference_mode()
def evaluate(model: ClipClassifier, contract: Contract, data: ClipDataset, config: TrainConfig,
             on_progress: OnProgress) -> tuple[float, dict[str, Metrics]]:
    """Mean loss and a report per target name, on the contract's own moments and without augmentation."""
    model.eval()
    logits: list[list[Tensor]] = [[] for _ in contract.targets]
    for done, frames in enumerate(batches(data, config)):
        on_progress("validating", done * config.optim.batch_size, len(data))
        for collected, output in zip(logits, model(frames), strict=True):
            collected.append(output.float().cpu())
    whole = tuple(torch.cat(parts) for parts in logits)
    loss = float(_loss(whole, data.truth, [None] * len(whole), 0.0))
    reports = {target.name: classification_report(data.truth[:, i].numpy(), whole[i].softmax(1).numpy(), target.labels,
                                                  ordered=target.ordered)
               for i, target in enumerate(contract.targets)}
    return loss, reports


def batches(data: ClipDataset, config: TrainConfig) -> Iterator[Tensor]:
    """Frames ``uint8 (B, T, H, W, 3)`` of the whole dataset in order, the contract's own moments."""
    for frames, _ in DataLoader(data, batch_size=config.optim.batch_size, num_workers=config.workers):
        yield moments_of(frames, config.jitter, None)


def _loss(logits: tuple[Tensor, ...], truth: Tensor, weights: list[Tensor | None], smoothing: float) -> Tensor:
    losses = [F.cross_entropy(output.float(), truth[:, i], weight=weights[i], label_smoothing=smoothing)
              for i, output in enumerate(logits)]
    return torch.stack(losses).mean()


def _parameter_groups(model: ClipClassifier, optim: OptimSettings) -> list[dict[str, Any]]:
    lora = [p for p in model.encoder.parameters() if p.requires_grad]
    return [{"params": lora, "lr": optim.lora_lr, "weight_decay": 0.0},
            {"params": list(model.head.parameters()), "lr": optim.head_lr, "weight_decay": optim.weight_decay}]


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
def _standardise(model: ClipClassifier, train: ClipDataset, config: TrainConfig, on_progress: OnProgress) -> None:
    """Measure the training features once, so that the head starts on features of mean 0 and deviation 1."""
    model.eval()
    features: list[Tensor] = []
    for done, frames in enumerate(batches(train, config)):
        if done * config.optim.batch_size >= STANDARDISE_SAMPLES:
            break
        on_progress("standardising", done * config.optim.batch_size, min(len(train), STANDARDISE_SAMPLES))
        features.append(model.encoder(frames.flatten(0, 1)))
    model.head.standardise_by(torch.cat(features))


def _is_stale(history: list[Epoch], patience: int | None) -> bool:
    if patience is None or len(history) <= patience:
        return False
    return max(e.metric for e in history[-patience:]) <= max(e.metric for e in history[:-patience])


def _checkpoint_gradients(model: ClipClassifier) -> None:
    enable = getattr(model.encoder.backbone, "gradient_checkpointing_enable", None)
    if enable is None:
        log.warning("%s has no gradient checkpointing: going on without", model.encoder.family)
    else:
        enable()
