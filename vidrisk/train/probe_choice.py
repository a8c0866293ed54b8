"""Choice of the probe that training starts at: its decay, and a logit scale if classes are rare.

Both are chosen on samples outside the training set of the probe.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidrisk.data import Table
from vidrisk.data.split import deal_folds, unit_keys
from vidrisk.metrics.standard_error import Losses, standard_error
from vidrisk.metrics.target_report import labelled_rows
from vidrisk.models.config import TrainConfig
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits
from vidrisk.train.class_draws import prior_logits
from vidrisk.train.logit_scale import LogitScale, fit_logit_scale
from vidrisk.train.probe import (
    DECAYS,
    Floats,
    Ints,
    ProbeInputs,
    fit_inputs,
    logits_out_of_fold,
    losses_of_samples,
    probe_inputs,
)

log = logging.getLogger(__name__)

FOLDS = 5
DEFAULT_DECAY = 0.1  # if there are too few samples to choose one


def fit_start(
    features: Floats,
    truth: Ints,
    turned: Ints,
    sample: Ints,
    view: Ints,
    target: Target,
    table: Table,
    config: TrainConfig,
) -> tuple[Tensor, Tensor]:
    """Return weights and bias of the probe that training starts at, for summaries that are not standardised.

    Args:
        features: summaries of every view of every sample ``(V, S)``.
        truth: truth of the original samples.
        turned: truth of every view.
        sample: sample number of every row of the features.
        view: view number of every row of the features; view 0 is the original sample.
        target: the target to predict.
        table: the samples; those that are not labelled for the target do not count.
        config: settings of the run.
    """
    rows = labelled_rows(turned)
    if not rows.all():  # else there would be a copy of all features
        features, turned, sample, view = features[rows], turned[rows], sample[rows], view[rows]
    inputs = probe_inputs(features)
    decay, scale = DEFAULT_DECAY, LogitScale()
    is_drawn = config.optim.class_weights == "drawn"
    prior = prior_logits(torch.from_numpy(truth.reshape(len(truth), -1)), (target,))[0]
    try:
        folds = np.asarray(deal_folds(table, FOLDS, seed=config.seed))
    except DataError:
        folds = np.zeros(0, int)
    if len(folds):
        is_told = _find_predictable(truth, target, folds)
        if is_told.any():
            judged = {
                each: _judge_decay(inputs, truth, turned, sample, view, target, folds, is_told, each, prior)
                for each in DECAYS
            }
            units = [unit for unit, is_one in zip(unit_keys(table), is_told, strict=True) if is_one]
            decay = choose_decay(
                {each: losses for each, (_, losses) in judged.items()}, units, errors=0.0 if is_drawn else 1.0
            )
            scale = judged[decay][0] if is_drawn else scale
    probe = fit_inputs(inputs, turned, target, decay)
    log.info(
        "%s starts at a probe with decay %g, logits times %.2f, frequencies of classes times %.2f",
        target.name,
        decay,
        scale.scale,
        -scale.shift,
    )
    weights = probe.weights / probe.deviation
    return scale.of_classifier(weights, probe.bias - weights @ probe.mean, prior)


def choose_decay(losses: Mapping[float, Losses], units: Sequence[str], errors: float) -> float:
    """Return the largest decay whose mean loss is within some standard errors of the smallest one.

    An overfitted probe leaves LoRA nothing to learn, and generalises worse to other scenes, which the losses here do
    not show.

    Args:
        losses: losses of the same samples ``(N,)``, by decay.
        units: what each sample shows: samples of one unit are not independent evidence.
        errors: number of standard errors.
    """
    best = min(losses, key=lambda each: float(losses[each].mean()))

    def is_near(decay: float) -> bool:
        more = losses[decay] - losses[best]
        return float(more.mean()) <= (errors * standard_error(more, units) if errors else 0.0)

    return max(decay for decay in losses if decay == best or is_near(decay))


def _find_predictable(truth: Ints, target: Target, folds: Ints) -> npt.NDArray[np.bool_]:
    """Return for which samples the other folds can give a prediction ``(N,)``.

    They cannot for a class that they lack. If the other folds of any fold have no labels, all values are false.
    """
    is_told = labelled_rows(truth)
    for fold in np.unique(folds):
        learnt = truth[folds != fold]
        if not labelled_rows(learnt).any():
            return np.zeros(len(truth), bool)
        if not target.multi_label:
            is_told &= (folds != fold) | np.isin(truth, learnt)
    return is_told


def _judge_decay(
    inputs: ProbeInputs,
    truth: Ints,
    turned: Ints,
    sample: Ints,
    view: Ints,
    target: Target,
    folds: Ints,
    is_told: npt.NDArray[np.bool_],
    decay: float,
    prior: Tensor,
) -> tuple[LogitScale, Losses]:
    """Train on all views of the other folds, and evaluate on the original samples.

    ``is_told`` selects the samples that count, and ``prior`` holds the logits of the class frequencies.

    Returns:
        The scale that calibrates the predictions, and the losses after it ``(N,)``: the confidence of a probe depends
        on its decay, and is corrected at export.
    """
    is_asked = (view == 0) & is_told[sample]
    logits = logits_out_of_fold(inputs, turned, target, folds[sample], decay)[torch.from_numpy(is_asked)]
    truth = truth[sample[is_asked]]
    scale = fit_logit_scale(logits, torch.from_numpy(truth), target, prior)
    sure = probabilities_from_logits(scale.of_logits(logits, prior).numpy(), multi_label=target.multi_label)
    return scale, losses_of_samples(sure, truth, target)
