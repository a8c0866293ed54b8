"""Choice of the head of a classifier of clips, by cross-validation on the training samples alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from vidrisk.data import Table
from vidrisk.data.split import deal_folds
from vidrisk.models.bases import load_bases
from vidrisk.models.classifier import ClipClassifier
from vidrisk.models.config import TrainConfig
from vidrisk.models.families import Source, family_of
from vidrisk.models.heads import SEGMENTS, HeadKind, SegmentsOfTime
from vidrisk.models.pretrained import build_classifier
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.dataset import ClipDataset, chunks_of
from vidrisk.train.objective import columns_of_targets
from vidrisk.train.probe import Floats, losses_of_samples, probabilities_out_of_fold, standardise_features

log = logging.getLogger(__name__)

FOLDS = 5
MOST_SAMPLES = 600
ERRORS, LEAST_GAIN, LEAST_SHARE = (
    2.0,
    0.03,
    0.1,
)  # standard errors, nats, and share of the loss that ``segments`` must gain
# The first one is taken unless the other one is significantly better: what it does not see cannot mislead it in other
# scenes.
KINDS: tuple[HeadKind, HeadKind] = ("motion", "segments")


def choose_head(
    config: TrainConfig, contract: Contract, train: ClipDataset, bases: list[Path], on_progress: OnProgress
) -> TrainConfig:
    """Return the configuration with ``head.kind`` chosen; unchanged if there is no choice.

    Probes on the features of the pretrained encoder are compared out of fold by the loss of every sample. The head
    ``segments`` also sees what stays constant throughout a clip; it is taken if that lowers the loss by a tenth, and
    significantly. Samples of one group are in one fold. ``bases`` are the folders of runs that are merged into the
    backbone.
    """
    family = family_of(Source(config.backbone))
    if config.head.kind != "auto" or contract.time is None or family.build is not None or family.per == "window":
        return config
    model = build_classifier(config, contract).eval()
    assert isinstance(model, ClipClassifier)  # what a family without a ``build`` of its own is
    load_bases(model, bases)
    rows = [int(row) for row in np.linspace(0, len(train) - 1, min(len(train), MOST_SAMPLES)).round()]
    table = Table(Path(), "action", tuple(train.samples[row] for row in rows))
    try:
        folds = deal_folds(table, FOLDS, seed=config.seed)
    except DataError:
        return _with_head(config, KINDS[1], "the samples are too few to compare heads")
    features = _features(model, train, rows, on_progress)
    return _with_head(config, *head_from_features(features, train.truth[rows], contract.targets, folds))


def head_from_features(
    features: torch.Tensor, truth: torch.Tensor, targets: Sequence[Target], folds: Sequence[int]
) -> tuple[HeadKind, str]:
    """Return the head that suits the features, and the reason.

    Args:
        features: standardised ``(N, T, D)``.
        truth: ``int64 (N, columns)``, from ``objective.truth_tensor``.
        targets: the targets of the columns.
        folds: number of the fold of each sample.
    """
    losses = {kind: np.zeros(len(features)) for kind in KINDS}
    for target, columns in zip(targets, columns_of_targets(targets), strict=True):
        of_target = truth[:, columns].numpy() if target.multi_label else truth[:, columns.start].numpy()
        for kind, summary in _summaries(features).items():
            sure, _ = probabilities_out_of_fold(summary, of_target, target, folds)
            losses[kind] += losses_of_samples(sure, of_target, target)
    gain = losses[KINDS[0]] - losses[KINDS[1]]
    error = float(gain.std() / np.sqrt(len(gain)))
    is_better = gain.mean() > max(ERRORS * error, LEAST_GAIN, LEAST_SHARE * losses[KINDS[0]].mean())
    means = ", ".join(f"{kind} {loss.mean():.3f}" for kind, loss in losses.items())
    return KINDS[int(is_better)], f"loss of probes out of fold: {means}, standard error of the difference {error:.3f}"


def _with_head(config: TrainConfig, kind: HeadKind, why: str) -> TrainConfig:
    log.info("head %s: %s", kind, why)
    return config.model_copy(update={"head": config.head.model_copy(update={"kind": kind})})


@torch.inference_mode()
def _features(model: ClipClassifier, train: ClipDataset, rows: list[int], on_progress: OnProgress) -> torch.Tensor:
    """Return features ``(N, T, D)`` of mean 0 and deviation 1."""
    found = []
    for chunk in chunks_of(len(rows), train.moments):
        on_progress("comparing heads", chunk[0], len(rows))
        found.append(model.features(train.plain([rows[place] for place in chunk])).float())
    features = torch.cat(found)
    return standardise_features(features.flatten(0, 1))[0].reshape(features.shape)


def _summaries(features: torch.Tensor) -> Mapping[HeadKind, Floats]:
    frames = features.shape[1]
    parts = min(SEGMENTS, frames)
    return {kind: SegmentsOfTime(frames, parts, is_relative=kind == "motion")(features).numpy() for kind in KINDS}
