"""Logistic regression on frozen features: the fastest model to train, for choices and out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from vidrisk.metrics.target_report import labelled_rows
from vidrisk.models.heads import statistics_of
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

DECAYS = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
STEPS = 200
MOST_ROTATED = 4096  # maximum number of samples whose features are rotated into the space that they span
PIECE_BYTES = 2**24  # memory for a piece of the features of more samples


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
        """Return logits ``float32 (N, C)`` of features ``float32 (N, D)``."""
        return (torch.from_numpy(features).float() - self.mean) / self.deviation @ self.weights.T + self.bias

    def probabilities(self, features: Floats) -> Floats:
        """Return probabilities ``float32 (N, C)`` of features ``float32 (N, D)``."""
        return probabilities_from_logits(self.logits(features).numpy(), multi_label=self.target.multi_label)


@dataclass(frozen=True, repr=False)
class ProbeInputs:
    """Features prepared for regressions: standardised, and rotated into the space that few samples span.

    Regressions on some of the rows have the same optimum in that space, and are fitted much faster. If there are many
    samples, the features stay unchanged, possibly in a mapped file, and are standardised piece by piece on demand.

    Attributes:
        rows: ``(N, R)``.
        mean, deviation: of the features ``(D,)``.
        rotation: ``(D, R)``, or None.
        is_ready: whether the rows are standardised.
    """

    rows: Floats
    mean: Tensor
    deviation: Tensor
    rotation: Tensor | None
    is_ready: bool

    def pieces(self, chosen: Ints) -> Iterator[tuple[Ints, Tensor]]:
        """Yield positions in ``chosen`` and the inputs of these rows ``(P, R)``; all at once if they are few."""
        size = len(chosen) if self.is_ready else max(1, PIECE_BYTES // (4 * self.rows.shape[1]))
        for begin in range(0, len(chosen), max(1, size)):
            places = np.arange(begin, min(begin + size, len(chosen)))
            piece = torch.from_numpy(self.rows[chosen[places]])
            yield places, piece if self.is_ready else piece.sub_(self.mean).div_(self.deviation)

    def probe(self, target: Target, weights: Tensor, bias: Tensor) -> Probe:
        """Convert a regression on inputs to one on features."""
        return Probe(
            target, self.mean, self.deviation, weights if self.rotation is None else weights @ self.rotation.T, bias
        )


def probe_inputs(features: Floats) -> ProbeInputs:
    """Prepare features ``(N, D)``, which must not change afterwards."""
    if len(features) > MOST_ROTATED:
        size = max(1, PIECE_BYTES // (8 * features.shape[1]))
        pieces = (torch.from_numpy(features[begin : begin + size]) for begin in range(0, len(features), size))
        return ProbeInputs(features, *statistics_of(pieces), None, is_ready=False)
    inputs, mean, deviation = standardise_features(torch.from_numpy(features).float())
    rotation = _rotation(inputs)
    return ProbeInputs(
        (inputs if rotation is None else inputs @ rotation).numpy(), mean, deviation, rotation, is_ready=True
    )


def fit_probe(features: Floats, truth: Ints, target: Target, decay: float) -> Probe:
    """Fit a probe on the labelled samples; the optimum is unique, so nothing is random.

    Args:
        features: ``(N, D)``.
        truth: as ``data.targets.truth_from_table`` returns it.
        target: the target to predict.
        decay: factor of half the squared weights, added to the mean loss.
    """
    rows = labelled_rows(truth)
    if not rows.all():  # else there would be a copy of all features
        features, truth = features[rows], truth[rows]
    return fit_inputs(probe_inputs(features), truth, target, decay)


def fit_inputs(inputs: ProbeInputs, truth: Ints, target: Target, decay: float) -> Probe:
    """Fit a probe on prepared features, all of them labelled; see ``fit_probe``."""
    return inputs.probe(target, *_minimise(inputs, np.arange(len(truth)), truth, target, decay))


def logits_out_of_fold(inputs: ProbeInputs, truth: Ints, target: Target, folds: Ints, decay: float) -> Tensor:
    """Predict every row with a probe trained on the other folds: ``float32 (N, C)``.

    ``folds`` holds the number of the fold of each row ``(N,)``.
    """
    found = torch.zeros((len(folds), len(target.labels)))
    is_labelled = labelled_rows(truth)
    for fold in np.unique(folds):
        learnt, asked = np.flatnonzero((folds != fold) & is_labelled), np.flatnonzero(folds == fold)
        weights, bias = _minimise(inputs, learnt, truth[learnt], target, decay)
        for places, piece in inputs.pieces(asked):
            found[torch.from_numpy(asked[places])] = piece @ weights.T + bias
    return found


def probabilities_out_of_fold(
    features: Floats, truth: Ints, target: Target, folds: Sequence[int], decays: Sequence[float] = DECAYS
) -> tuple[Floats, float]:
    """Predict every sample with a probe trained on the other folds.

    ``folds`` holds the number of the fold of each sample. Of the ``decays``, the one with the smallest out-of-fold loss
    is taken.

    Returns:
        Probabilities ``(N, C)``, and the chosen decay.
    """
    inputs = probe_inputs(features)
    logits = ((logits_out_of_fold(inputs, truth, target, np.asarray(folds), decay).numpy(), decay) for decay in decays)
    asked = ((probabilities_from_logits(found, multi_label=target.multi_label), decay) for found, decay in logits)
    return min(asked, key=lambda one: log_loss(one[0], truth, target))


def losses_of_samples(probabilities: Floats, truth: Ints, target: Target) -> npt.NDArray[np.float64]:
    """Return the negative log-likelihood of each sample's labels ``(N,)``; 0 for an unlabelled sample.

    For a multi-label target it is the mean over the labels.
    """
    sure = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    if target.multi_label:
        losses = -np.where(truth == 1, np.log(sure), np.log1p(-sure)).mean(axis=1)
    else:
        losses = -np.log(sure[np.arange(len(truth)), truth])
    return np.where(labelled_rows(truth), losses, 0.0)


def log_loss(probabilities: Floats, truth: Ints, target: Target) -> float:
    """Return the mean negative log-likelihood of the labels over the labelled samples."""
    return float(losses_of_samples(probabilities, truth, target).sum() / labelled_rows(truth).sum())


def standardise_features(inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs of mean 0 and deviation 1, the mean and the deviation.

    Nearly constant features are not amplified.
    """
    mean, deviation = statistics_of(inputs.split(256))  # type: ignore[no-untyped-call]
    return (inputs - mean).div_(deviation), mean, deviation


def _rotation(inputs: Tensor) -> Tensor | None:
    """Return an orthonormal basis ``(D, R)`` of the span of the samples; None unless there are fewer than features.

    The optimum lies in that space, because any part orthogonal to all samples only adds to the squared weights.
    """
    if len(inputs) >= inputs.shape[1]:
        return None
    values, vectors = torch.linalg.eigh(inputs.double() @ inputs.double().T)
    kept = values > values.max() * 1e-10
    basis: Tensor = (inputs.double().T @ (vectors[:, kept] / values[kept].sqrt())).float()
    return basis


def _minimise(inputs: ProbeInputs, chosen: Ints, truth: Ints, target: Target, decay: float) -> tuple[Tensor, Tensor]:
    """Return the weights and the bias, on inputs, of the optimum.

    ``chosen`` are labelled rows of the inputs, and ``truth`` is that of these rows.
    """
    weights = torch.zeros(len(target.labels), inputs.rows.shape[1], requires_grad=True)
    bias = torch.zeros(len(target.labels), requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, bias], max_iter=STEPS, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )
    known = list(inputs.pieces(chosen)) if inputs.is_ready else None

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = 0.5 * decay * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        value = value.detach()
        for places, piece in known or inputs.pieces(chosen):
            logits, right = piece @ weights.T + bias, torch.from_numpy(truth[places])
            wrong = (
                F.binary_cross_entropy_with_logits(logits, right.float())
                if target.multi_label
                else F.cross_entropy(logits, right)
            ) * (len(places) / len(chosen))
            wrong.backward()  # type: ignore[no-untyped-call]
            value += wrong.detach()
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach(), bias.detach()
