"""Where training begins: classifiers at the logistic regression on features that are not trained yet.

A head that begins at zero learns from a few hundred steps whatever tells the training samples apart, and LoRA follows it. One that
begins at the regularised optimum leaves LoRA little to bend, and carries over better to other scenes (Kumar et al. 2022,
Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution).
"""

from __future__ import annotations

import logging

import numpy as np
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
from vidrisk.train.probe import DECAYS, Floats, Ints, fit_probe, log_loss, reduce_features
from vidrisk.train.shares import Share
from vidrisk.train.strategies import is_sharded
from vidrisk.train.views import ViewDataset

log = logging.getLogger(__name__)

FOLDS = 5
MOST_BYTES = 2**29  # of summaries
DEFAULT_DECAY = 0.1  # where the samples are too few to choose one


def start_at_probe(model: TrainableModel, train: ClipDataset | ViewDataset, table: Table, contract: Contract, config: TrainConfig,
                   share: Share, on_progress: OnProgress) -> None:
    """Fit a regression on what the classifiers see of the training samples, and let them begin there.

    Its decay is the one with the smallest loss on samples that it has not learnt from; samples of one group are learnt from
    together. Where views are kept, all of them are learnt from. The main process does it for all. Nothing is done where something
    else is trained in front of the classifiers, or where weights lie in shards. Where rare classes are drawn more often, scale and
    bias of the probe are those that are most likely for samples that it has not learnt from.

    Args:
        table: the training samples, for their groups.
    """
    if is_sharded(model):
        return
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
    share.copy_main(tensor for name, tensor in model.state_dict().items() if name.startswith(model.own_parts))


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
    """Return weights and bias of the probe with the best decay, for summaries that are not standardised.

    Args:
        features: summaries of every view of every sample ``(V, S)``.
        truth: of the samples as they are; ``turned`` that of every view.
        sample, view: numbers of every line of features.
        table: the samples.
    """
    decay, scale = DEFAULT_DECAY, LogitScale(1.0, 0.0, 0.0)
    prior = prior_logits(torch.from_numpy(truth.reshape(len(truth), -1)), (target,))[0]
    try:
        folds = np.asarray(deal_folds(table, FOLDS, seed=config.seed))
    except DataError:
        folds = np.zeros(0, int)
    if len(folds) and (target.multi_label or _are_judged(truth, folds)):
        reduced = reduce_features(features)
        is_scaled = config.optim.class_weights == "drawn"
        found = {each: _scale_out_of_fold(reduced, truth, turned, sample, view, target, folds, each, prior if is_scaled else None)
                 for each in DECAYS}
        decay = min(found, key=lambda each: found[each].loss)
        scale = found[decay]
    probe = fit_probe(features, turned, target, decay)
    log.info("%s begins at a probe with decay %g, logits times %.2f, frequencies of classes times %.2f", target.name, decay,
             scale.scale, -scale.shift)
    weights = probe.weights / probe.deviation
    return scale.of_classifier(weights, probe.bias - weights @ probe.mean, prior)


def _are_judged(truth: Ints, folds: Ints) -> bool:
    """Tell whether some class is in several folds: where none is, no probe knows the classes that it is judged on."""
    return any(len(set(folds[truth == label])) > 1 for label in np.unique(truth[truth >= 0]))


def _scale_out_of_fold(features: Floats, truth: Ints, turned: Ints, sample: Ints, view: Ints, target: Target, folds: Ints,
                       decay: float, prior: Tensor | None) -> LogitScale:
    """Learn from all views of the other folds, and be judged on the samples as they are.

    Args:
        prior: logits of the classes' frequencies, to fit a scale with; None leaves the logits as they are. Samples of a class that
            the other folds lack say nothing of it.
    """
    found = torch.zeros((len(truth), len(target.labels)))
    is_told = labelled_rows(truth)
    for fold in range(FOLDS):
        learnt, asked = folds[sample] != fold, (folds[sample] == fold) & (view == 0)
        if not labelled_rows(turned[learnt]).any():
            return LogitScale(1.0, 0.0, float("inf"))
        probe = fit_probe(features[learnt], turned[learnt], target, decay, is_reduced=True)
        found[folds == fold] = probe.logits(features[asked])
        if not target.multi_label:
            is_told &= (folds != fold) | np.isin(truth, turned[learnt])
    if prior is None or not is_told.any():
        probabilities = found.sigmoid() if target.multi_label else found.softmax(dim=1)
        return LogitScale(1.0, 0.0, log_loss(probabilities.numpy(), truth, target))
    return fit_logit_scale(found[torch.from_numpy(is_told)], torch.from_numpy(truth[is_told]), target, prior)


