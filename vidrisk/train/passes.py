"""Passes over samples without gradients: initial statistics for trained layers, and evaluation of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vidrisk.metrics.multi_label import MultiLabelMetrics
from vidrisk.metrics.target_report import TargetMetrics, report_on_target
from vidrisk.models.config import Metric, TrainConfig
from vidrisk.models.trainable import TrainableModel
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.dataset import ClipDataset, chunks_of, moments_of
from vidrisk.train.objective import columns_of_targets, mean_loss
from vidrisk.train.probe import Floats, Ints
from vidrisk.train.shares import Share
from vidrisk.train.strategies import is_sharded
from vidrisk.train.views import ViewDataset

STANDARDISE_SAMPLES = 1024


@torch.inference_mode()
def standardise(
    model: TrainableModel, train: ClipDataset | ViewDataset, config: TrainConfig, share: Share, on_progress: OnProgress
) -> None:
    """Pass the training samples through the model once, to give trained layers inputs of mean 0 and deviation 1.

    The main process does it for all.
    """
    model.eval()
    device = next(model.parameters()).device
    most = min(len(train), STANDARDISE_SAMPLES)
    # Evenly spread: a table is often sorted by class.
    rows = range(len(train)) if most == len(train) else np.linspace(0, len(train) - 1, most).astype(int).tolist()
    chunks = [[rows[place] for place in chunk] for chunk in chunks_of(most, train[0][0].shape[0])]

    def batches() -> Iterator[Tensor]:
        done = 0
        for inputs in _inputs(train, config, chunks):
            on_progress("standardising", done, most)
            done += len(inputs)
            yield inputs.to(device)

    if share.is_main:
        model.standardise(batches)
    share.copy_main(tensor for name, tensor in model.state_dict().items() if name.startswith(model.own_parts))


def evaluate(
    model: TrainableModel,
    contract: Contract,
    data: ClipDataset | ViewDataset,
    config: TrainConfig,
    share: Share,
    on_progress: OnProgress,
) -> tuple[float, dict[str, TargetMetrics]]:
    """Return the mean loss and a report per target name, the same in all processes."""
    found = compute_logits(model, contract, data, config, share, on_progress)
    loss = float(mean_loss(contract.targets, found, data.truth, [None] * len(found), 0.0))
    return loss, report_on_logits(contract, found, data.truth)


def compute_logits(
    model: TrainableModel,
    contract: Contract,
    data: ClipDataset | ViewDataset,
    config: TrainConfig,
    share: Share,
    on_progress: OnProgress,
) -> tuple[Tensor, ...]:
    """Return logits ``(N, C)`` per target, the same in all processes.

    They are computed at the contract's own moments, without augmentation, and in float32 unless the weights are
    sharded.
    """
    model.eval()
    device = next(model.parameters()).device
    in_shards = is_sharded(model)
    chunks = chunks_of(len(data), data[0][0].shape[0])
    mine = share.of(chunks)
    # Gathering shards is a collective call: all processes need the same number of rounds.
    rounds = mine + chunks[:1] * (-(-len(chunks) // share.world) - len(mine)) if in_shards else mine
    logits = [torch.zeros((len(data), len(target.labels))) for target in contract.targets]
    with torch.no_grad() if in_shards else torch.inference_mode():
        for number, (chunk, inputs) in enumerate(zip(rounds, _inputs(data, config, rounds), strict=True)):
            on_progress("validating", chunk[0], len(data))
            inputs = inputs.to(device)
            # Part by part, because accelerate wraps forward (and only that) in the training precision. Shards are
            # gathered nowhere else.
            outputs = model(inputs)[0] if in_shards else model.logits(model.features(inputs))
            for collected, output in zip(logits, outputs if number < len(mine) else (), strict=number < len(mine)):
                collected[chunk] = output.float().cpu()
    return tuple(share.join(each) for each in logits)


def report_on_logits(contract: Contract, logits: Sequence[Tensor], truth: Tensor) -> dict[str, TargetMetrics]:
    """Return a report per target name, without targets that no sample is labelled for.

    ``truth`` is ``int64 (N, columns)``.
    """
    reports = {}
    for target, wanted, sure in answers_from_logits(contract, logits, truth):
        report = report_on_target(target, wanted, sure)
        if report is not None:
            reports[target.name] = report
    return reports


def answers_from_logits(
    contract: Contract, logits: Sequence[Tensor], truth: Tensor
) -> Iterator[tuple[Target, Ints, Floats]]:
    """Yield every target, its truth as ``truth_from_table`` returns it, and probabilities ``(N, C)``."""
    for target, columns, of_target in zip(contract.targets, columns_of_targets(contract.targets), logits, strict=True):
        wanted = truth[:, columns].numpy()
        yield (
            target,
            wanted if target.multi_label else wanted[:, 0],
            probabilities_from_logits(of_target.numpy(), multi_label=target.multi_label),
        )


def metric_of(report: TargetMetrics, metric: Metric) -> float:
    """Return the figure that epochs are compared by.

    For a multi-label target, ``top1`` is replaced by the mean average precision.
    """
    if isinstance(report, MultiLabelMetrics):
        return report.macro_f1 if metric == "macro_f1" else report.mean_average_precision or 0.0
    return report.top1 if metric == "top1" else report.macro_f1


def _inputs(data: ClipDataset | ViewDataset, config: TrainConfig, chunks: list[list[int]]) -> Iterator[Tensor]:
    """Yield batches of a dataset, unaugmented: frames ``uint8 (B, T, H, W, 3)`` or views ``(B, T, …)``."""
    if isinstance(data, ViewDataset):
        data.draw(None)
    for inputs, _ in DataLoader(data, batch_sampler=chunks, num_workers=config.workers):
        yield inputs if isinstance(data, ViewDataset) else moments_of(inputs, data.jitter, None)
