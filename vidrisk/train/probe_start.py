"""Where training begins: classifiers at the logistic regression on features that are not trained yet.

A head that begins at zero learns from a few hundred steps whatever tells the training samples apart, and LoRA follows it. One that
begins at the regularised optimum leaves LoRA little to bend, and carries over better to other scenes (Kumar et al. 2022,
Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidrisk.data import Table
from vidrisk.data.split import deal_folds
from vidrisk.metrics.target_report import labelled_rows
from vidrisk.models.config import TrainConfig
from vidrisk.models.trainable import TrainableModel
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.class_draws import prior_logits
from vidrisk.train.dataset import ClipDataset, chunks_of, moments_of
from vidrisk.train.logit_scale import LogitScale, fit_logit_scale
from vidrisk.train.objective import columns_of_targets
from vidrisk.train.probe import DECAYS, Floats, Ints, fit_probe, losses_of_samples, reduce_features
from vidrisk.train.shares import Share
from vidrisk.train.strategies import is_sharded
from vidrisk.train.views import ViewDataset

log = logging.getLogger(__name__)

FOLDS = 5
MOST_BYTES = 2**29  # of summaries
DEFAULT_DECAY = 0.1  # where the samples are too few to choose one


def start_at_probe(model: TrainableModel, train: ClipDataset | ViewDataset, table: Table, contract: Contract, config: TrainConfig,
                   share: Share, on_progress: OnProgress) -> bool:
    """Fit a regression on what the classifiers see of the training samples, and let them begin there.

    Its decay is the largest one of those that are as good, within a standard error, as the best on samples that they have not
    learnt from; samples of one group are learnt from together. Where views are kept, all of them are learnt from. The main process
    does it for all. Nothing is done where something else is trained in front of the classifiers, or where weights lie in shards.
    Where rare classes are drawn more often, decay, scale and bias of the probe are those that are most likely for samples that it
    has not learnt from.

    Args:
        table: the training samples, for their groups.

    Returns:
        Whether they begin there; the same in all processes.
    """
    if is_sharded(model):
        return False
    is_started = False
    model.eval()
    if share.is_main:
        summaries = _summaries(model, train, config, on_progress)
        if summaries is not None:
            rows, views, features = summaries
            truth = train.truth[rows].numpy()
            # Row and view of every line of features.
            sample, view = np.tile(np.arange(len(rows)), views), np.repeat(np.arange(views), len(rows))
            found = []
            for target, columns in zip(contract.targets, columns_of_targets(contract.targets), strict=True):
                of_target = truth[:, columns] if target.multi_label else truth[:, columns.start]
                turned = _truth_of_views(train, rows, views, columns, target) if isinstance(train, ViewDataset) else of_target
                found.append(fit_start(features, of_target, turned, sample, view, target,
                                     table.with_samples(table.samples[row] for row in rows), config))
            model.start_classifiers(found)
            is_started = True
    share.copy_main(tensor for name, tensor in model.state_dict().items() if name.startswith(model.own_parts))
    return any(share.gather(is_started))


@torch.inference_mode()
def sees_summaries(model: TrainableModel, data: ClipDataset | ViewDataset, config: TrainConfig) -> bool:
    """Tell whether the classifiers of a model begin at a probe."""
    return config.head.start == "probe" and model.summaries(
        _inputs(data, [0], 0, config).to(next(model.parameters()).device)) is not None


@torch.inference_mode()
def _summaries(model: TrainableModel, train: ClipDataset | ViewDataset, config: TrainConfig,
               on_progress: OnProgress) -> tuple[list[int], int, Floats] | None:
    """Return numbers of samples, how many views of each, and the summaries ``(views * samples, S)``, view by view."""
    first = model.summaries(_inputs(train, [0], 0, config).to(next(model.parameters()).device))
    if first is None:
        return None
    room = max(1, MOST_BYTES // (4 * first.shape[1]))
    views = max(1, min(train.count if isinstance(train, ViewDataset) else 1, room // len(train)))
    rows = [int(row) for row in np.linspace(0, len(train) - 1, min(len(train), room // views)).round()]
    rows = sorted(set(rows))
    parts: list[Tensor] = []
    for view in range(views):
        for chunk in chunks_of(len(rows), config.frames):
            on_progress("fitting a probe", view * len(rows) + chunk[0], views * len(rows))
            found = model.summaries(_inputs(train, [rows[place] for place in chunk], view, config).to(first.device))
            assert found is not None
            parts.append(found.float().cpu())
    return rows, views, torch.cat(parts).numpy()


def _inputs(train: ClipDataset | ViewDataset, rows: list[int], view: int, config: TrainConfig) -> Tensor:
    if isinstance(train, ViewDataset):
        return torch.stack([train.view_of(row, view) for row in rows])
    return moments_of(torch.stack([train[row][0] for row in rows]), config.jitter, None)


def _truth_of_views(train: ViewDataset, rows: list[int], views: int, columns: slice, target: Target) -> Ints:
    """Return the truth of every view, mirrored ones turned: ``(views * samples, …)``."""
    every = torch.stack([train.truth_of(row, view) for view in range(views) for row in rows])[:, columns].numpy()
    return every if target.multi_label else every[:, 0]


def fit_start(features: Floats, truth: Ints, turned: Ints, sample: Ints, view: Ints, target: Target, table: Table,
              config: TrainConfig) -> tuple[Tensor, Tensor]:
    """Return weights and bias of the probe that training begins at, for summaries that are not standardised.

    Args:
        features: summaries of every view of every sample ``(V, S)``.
        truth: of the samples as they are; ``turned`` that of every view.
        sample, view: numbers of every line of features.
        table: the samples.
    """
    decay, scale = DEFAULT_DECAY, LogitScale()
    is_drawn = config.optim.class_weights == "drawn"
    prior = prior_logits(torch.from_numpy(truth.reshape(len(truth), -1)), (target,))[0]
    try:
        folds = np.asarray(deal_folds(table, FOLDS, seed=config.seed))
    except DataError:
        folds = np.zeros(0, int)
    if len(folds) and (target.multi_label or _are_judged(truth, folds)):
        reduced = reduce_features(features)
        judged = {each: _judge_decay(reduced, truth, turned, sample, view, target, folds, each, prior) for each in DECAYS}
        losses = {each: found.losses for each, found in judged.items() if found is not None}
        if losses:
            decay = choose_decay(losses, errors=0.0 if is_drawn else 1.0)
            scale = judged[decay].scale if is_drawn else scale  # type: ignore[union-attr]
    probe = fit_probe(features, turned, target, decay)
    log.info("%s begins at a probe with decay %g, logits times %.2f, frequencies of classes times %.2f", target.name, decay,
             scale.scale, -scale.shift)
    weights = probe.weights / probe.deviation
    return scale.of_classifier(weights, probe.bias - weights @ probe.mean, prior)


def choose_decay(losses: Mapping[float, npt.NDArray[np.float64]], errors: float) -> float:
    """Return the largest decay whose mean loss is within some standard errors of the least one.

    A probe that knows its samples by heart leaves LoRA nothing to learn, and is not as good in other scenes, which nothing here
    shows.

    Args:
        losses: of the same samples, by decay ``(N,)``.
    """
    best = min(losses, key=lambda each: float(losses[each].mean()))

    def is_near(decay: float) -> bool:
        more = losses[decay] - losses[best]
        return float(more.mean()) <= errors * float(more.std()) / math.sqrt(len(more))

    return max(decay for decay in losses if decay == best or is_near(decay))


def _are_judged(truth: Ints, folds: Ints) -> bool:
    """Tell whether some class is in several folds: where none is, no probe knows the classes that it is judged on."""
    return any(len(set(folds[truth == label])) > 1 for label in np.unique(truth[truth >= 0]))


@dataclass(frozen=True)
class _Judged:
    """What probes with one decay answer out of fold: the scale that makes it believable, and the losses behind it ``(N,)``."""

    scale: LogitScale
    losses: npt.NDArray[np.float64]


def _judge_decay(features: Floats, truth: Ints, turned: Ints, sample: Ints, view: Ints, target: Target, folds: Ints,
                 decay: float, prior: Tensor) -> _Judged | None:
    """Learn from all views of the other folds, and be judged on the samples as they are; None where a fold learns nothing.

    Losses are those of the best scale: how sure a probe is follows from its decay, and is mended at export.

    Args:
        prior: logits of the classes' frequencies. Samples of a class that the other folds lack say nothing of it.
    """
    found = torch.zeros((len(truth), len(target.labels)))
    is_told = labelled_rows(truth)
    for fold in range(FOLDS):
        learnt, asked = folds[sample] != fold, (folds[sample] == fold) & (view == 0)
        if not labelled_rows(turned[learnt]).any():
            return None
        probe = fit_probe(features[learnt], turned[learnt], target, decay, is_reduced=True)
        found[folds == fold] = probe.logits(features[asked])
        if not target.multi_label:
            is_told &= (folds != fold) | np.isin(truth, turned[learnt])
    if not is_told.any():
        return None
    logits = found[torch.from_numpy(is_told)]
    scale = fit_logit_scale(logits, torch.from_numpy(truth[is_told]), target, prior)
    turned_logits = scale.of_logits(logits, prior)
    sure = (turned_logits.sigmoid() if target.multi_label else turned_logits.softmax(dim=1)).numpy()
    return _Judged(scale, losses_of_samples(sure, truth[is_told], target))
