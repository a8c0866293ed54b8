"""Learning curves: how well probes do on growing shares of the samples, with a forecast for twice as many."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from vidrisk.data.split import deal_folds, unit_keys
from vidrisk.metrics.learning_curve import LEAST_SIZES, LearningCurve, fit_learning_curve
from vidrisk.metrics.target_report import labelled_rows, report_on_target
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.probe import DECAYS, fit_probe, log_loss
from vidrisk.train.summaries import Summaries

FOLDS, REPEATS = 5, 3
SHARES = (0.125, 0.18, 0.25, 0.35, 0.5, 0.71, 1.0)  # of the training samples
LEAST = 20  # minimum number of training samples


def measure_curve(summaries: Summaries, target: Target, on_progress: OnProgress, *, seed: int = 0) -> LearningCurve:
    """Cross-validate probes trained on shares of the samples; groups stay in one fold.

    The score is top-1, or the mean average precision of a multi-label target; a repeat is one dealing of folds.

    Raises:
        DataError: too few labelled samples, or groups of them, for a result.
    """
    rows = np.flatnonzero(labelled_rows(summaries.truth[target.name]))
    table = summaries.table.with_samples(summaries.table.samples[row] for row in rows)
    features, truth = summaries.features[rows], summaries.truth[target.name][rows]
    folds = [np.asarray(deal_folds(table, FOLDS, seed=seed + repeat)) for repeat in range(REPEATS)]
    most = min(len(rows) - int(np.bincount(numbers).max()) for numbers in folds)  # training samples left by any fold
    if sum(round(share * most) >= LEAST for share in SHARES) < LEAST_SIZES:
        raise DataError(
            f"{len(rows)} samples are labelled for {target.name}, and a fold leaves only {most} for training",
            allowed=f"{LEAST_SIZES} sizes of {LEAST} or more, as of 50 samples that stand alone",
            fix="label more, or group by something finer",
        )
    scores: dict[int, list[float]] = defaultdict(list)
    decays: dict[float, float] = {}
    for repeat, numbers in enumerate(folds):
        order = np.random.default_rng(seed + repeat).permutation(len(rows))
        for step, share in enumerate(SHARES):
            on_progress("learning curve", repeat * len(SHARES) + step, REPEATS * len(SHARES))
            learnt = [order[numbers[order] != fold] for fold in range(FOLDS)]
            size = round(share * min(map(len, learnt)))
            if size < LEAST:
                continue
            found = np.zeros((len(rows), len(target.labels)), np.float32)
            # Each probe prepares its share alone, as a training on it would; ``logits_out_of_fold`` prepares all rows.
            for fold, rest in enumerate(learnt):
                chosen, asked = rest[:size], numbers == fold
                if share not in decays:
                    decays[share] = _best_decay(features[chosen], truth[chosen], target)
                found[asked] = fit_probe(features[chosen], truth[chosen], target, decays[share]).probabilities(
                    features[asked]
                )
            report = report_on_target(target, truth, found)
            assert report is not None
            scores[size].append(
                report.mean_average_precision or 0.0 if target.multi_label else report.to_dict()["top1"]
            )
    # Folds of different dealings differ slightly in size; such sizes count as one.
    return fit_learning_curve(_merge_sizes(scores), len(set(unit_keys(table))))


def _best_decay(features: np.ndarray, truth: np.ndarray, target: Target) -> float:
    """Choose the decay on a held-out fifth of the training samples."""
    held = np.arange(len(features)) % FOLDS == 0

    def loss(decay: float) -> float:
        probe = fit_probe(features[~held], truth[~held], target, decay)
        return log_loss(probe.probabilities(features[held]), truth[held], target)

    return min(DECAYS, key=loss)


def _merge_sizes(scores: dict[int, list[float]]) -> dict[int, list[float]]:
    merged: dict[int, list[float]] = {}
    for size in sorted(scores):
        near = next((known for known in merged if size <= known * 1.1), None)
        merged.setdefault(size if near is None else near, []).extend(scores[size])
    return merged
