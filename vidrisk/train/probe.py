"""Logistic regression on features that are not trained: the quickest model there is, for choices and for labels out of fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from vidrisk.metrics.target_report import labelled_rows
from vidrisk.models.heads import QUIET
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

DECAYS = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
STEPS = 200
MOST_ROTATED = 4096  # samples up to which features are rotated into the space that samples span


@dataclass(frozen=True)
class Probe:
    """A fitted regression.

    Attributes:
        mean, deviation: of the features ``(D,)``.
        weights, bias: ``(C, D)`` and ``(C,)``, on standardised features.
    """

    target: Target
    mean: Tensor
    deviation: Tensor
    weights: Tensor
    bias: Tensor

    def logits(self, features: Floats) -> Tensor:
        """``float32 (N, D)`` → ``float32 (N, C)``."""
        return (torch.from_numpy(features).float() - self.mean) / self.deviation @ self.weights.T + self.bias

    def probabilities(self, features: Floats) -> Floats:
        """``float32 (N, D)`` → ``float32 (N, C)``."""
        return probabilities_from_logits(self.logits(features).numpy(), multi_label=self.target.multi_label)


def reduce_features(features: Floats) -> Floats:
    """Standardise features ``(N, D)``, and rotate them into the space that they span where that has fewer dimensions.

    Regressions on some of the rows have the same optimum there, and are found much faster where samples are few.
    """
    inputs, _, _ = standardise_features(torch.from_numpy(features).float())
    rotation = _rotation(inputs)
    found: Floats = (inputs if rotation is None else inputs @ rotation).numpy()
    return found


def fit_probe(features: Floats, truth: Ints, target: Target, decay: float, *, is_reduced: bool = False) -> Probe:
    """Fit on samples that are labelled; the optimum is one, so nothing is drawn.

    Args:
        features: ``(N, D)``.
        truth: as ``data.targets.truth_from_table`` gives it.
        decay: of the squared weights, half of which is added to the mean loss.
        is_reduced: whether the features are standardised already.
    """
    rows = labelled_rows(truth)
    if not rows.all():  # else there would be a copy of all features
        features, truth = features[rows], truth[rows]
    inputs = torch.from_numpy(features).float()
    if is_reduced:
        weights, bias = _minimised(inputs, torch.from_numpy(truth), target, decay)
        return Probe(target, torch.zeros(inputs.shape[1]), torch.ones(inputs.shape[1]), weights, bias)
    inputs, mean, deviation = standardise_features(inputs)
    rotation = _rotation(inputs)
    reduced = inputs if rotation is None else inputs @ rotation
    weights, bias = _minimised(reduced, torch.from_numpy(truth), target, decay)
    return Probe(target, mean, deviation, weights if rotation is None else weights @ rotation.T, bias)


def logits_out_of_fold(features: Floats, truth: Ints, target: Target, folds: Ints, decay: float) -> Tensor:
    """Ask, about every row, a probe that has not learnt from its fold: ``float32 (N, C)``.

    Args:
        features: standardised, as of ``reduce_features``.
        folds: number of the fold of each row ``(N,)``.
    """
    found = torch.zeros((len(features), len(target.labels)))
    for fold in np.unique(folds):
        probe = fit_probe(features[folds != fold], truth[folds != fold], target, decay, is_reduced=True)
        found[torch.from_numpy(folds == fold)] = probe.logits(features[folds == fold])
    return found


def probabilities_out_of_fold(features: Floats, truth: Ints, target: Target, folds: Sequence[int],
                              decays: Sequence[float] = DECAYS) -> tuple[Floats, float]:
    """Ask, about every sample, a probe that has not learnt from its fold.

    Args:
        folds: number of the fold of each sample.
        decays: of which the one with the smallest loss out of fold is taken.

    Returns:
        Probabilities ``(N, C)``, and the decay that was taken.
    """
    features = reduce_features(features)
    logits = ((logits_out_of_fold(features, truth, target, np.asarray(folds), decay).numpy(), decay) for decay in decays)
    asked = ((probabilities_from_logits(found, multi_label=target.multi_label), decay) for found, decay in logits)
    return min(asked, key=lambda one: log_loss(one[0], truth, target))


def losses_of_samples(probabilities: Floats, truth: Ints, target: Target) -> npt.NDArray[np.float64]:
    """Return the negative log-likelihood of each sample's labels ``(N,)``, of several the mean; 0 where nobody has labelled it."""
    sure = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    if target.multi_label:
        losses = -np.where(truth == 1, np.log(sure), np.log1p(-sure)).mean(axis=1)
    else:
        losses = -np.log(sure[np.arange(len(truth)), truth])
    return np.where(labelled_rows(truth), losses, 0.0)


def log_loss(probabilities: Floats, truth: Ints, target: Target) -> float:
    """Return the mean negative log-likelihood of the labels of samples that are labelled."""
    return float(losses_of_samples(probabilities, truth, target).sum() / labelled_rows(truth).sum())


def standardise_features(inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs of mean 0 and deviation 1, the mean and the deviation; nearly constant features stay quiet."""
    mean, deviation = inputs.mean(dim=0), inputs.std(dim=0, unbiased=False)
    deviation = (deviation + QUIET * deviation.mean()).clamp_min(1e-6)
    return (inputs - mean).div_(deviation), mean, deviation


def _rotation(inputs: Tensor) -> Tensor | None:
    """Return an orthonormal basis ``(D, R)`` of what the samples span, where they are fewer than the features.

    The optimum lies in that space, because what is orthogonal to all samples only adds to the squared weights.
    """
    if len(inputs) >= inputs.shape[1] or len(inputs) > MOST_ROTATED:
        return None
    values, vectors = torch.linalg.eigh(inputs.double() @ inputs.double().T)
    kept = values > values.max() * 1e-10
    basis: Tensor = (inputs.double().T @ (vectors[:, kept] / values[kept].sqrt())).float()
    return basis


def _minimised(inputs: Tensor, truth: Tensor, target: Target, decay: float) -> tuple[Tensor, Tensor]:
    weights = torch.zeros(len(target.labels), inputs.shape[1], requires_grad=True)
    bias = torch.zeros(len(target.labels), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=STEPS, tolerance_grad=1e-6, tolerance_change=1e-9,
                                  line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = inputs @ weights.T + bias
        wrong = (F.binary_cross_entropy_with_logits(logits, truth.float()) if target.multi_label
                 else F.cross_entropy(logits, truth))
        value: Tensor = wrong + 0.5 * decay * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach(), bias.detach()
