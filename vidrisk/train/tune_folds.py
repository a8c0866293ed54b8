"""Cross-validation of settings on the training split: each trial is trained on all but one fold and tested on that."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidrisk.data import Table
from vidrisk.data.split import deal_folds, unit_keys
from vidrisk.data.targets import NOT_LABELLED
from vidrisk.models.bases import load_bases
from vidrisk.models.classifier import ClipClassifier
from vidrisk.models.config import TrainConfig
from vidrisk.models.pretrained import build_classifier
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import DataError, require
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.checkpoint import Checkpoint
from vidrisk.train.class_work import Classification
from vidrisk.train.dataset import ClipDataset
from vidrisk.train.loop import fit
from vidrisk.train.passes import answers_from_logits, compute_logits, metric_of, report_on_logits
from vidrisk.train.probe import losses_of_samples
from vidrisk.train.shares import Share
from vidrisk.train.views import ViewDataset

LEAST_FOLDS, MOST_FOLDS = 3, 5


def count_folds(table: Table) -> int:
    """Return the number of folds of the training split, 3 to 5, with a unit of every label in each fold.

    Raises:
        DataError: a label with fewer than three groups or files.
    """
    shown = {
        (name, label, key)
        for sample, key in zip(table.samples, unit_keys(table), strict=True)
        for name in sample.labels
        for label in sample.labels_of(name)
    }
    units = Counter((name, label) for name, label, _ in shown)
    (target, label), fewest = min(units.items(), key=lambda item: item[1], default=(("", ""), 0))
    if fewest < LEAST_FOLDS:
        what = (
            f"{target} {label!r} has {fewest} groups or files in the train split"
            if units
            else "no training sample is labelled"
        )
        raise DataError(
            f"{what}, too few to tune on",
            allowed=f"{LEAST_FOLDS} or more of every label",
            fix="add samples, or train without tune",
        )
    return min(MOST_FOLDS, fewest)


class FoldJudge:
    """Trains configurations on folds. Decoded frames, and views that several of them use, are computed once.

    Unlabelled samples are in no fold: they are in every training set, as in the run, and do not count there.

    Args:
        data: the training split.
        folds: number of folds.
        bases: folders of runs that are merged into the backbone.
    """

    def __init__(
        self,
        contract: Contract,
        data: ClipDataset,
        folds: int,
        seed: int,
        bases: list[Path],
        share: Share,
        scratch: Path,
    ) -> None:
        self.contract, self.share, self._bases, self._scratch = contract, share, bases, scratch
        self._data = data.part(range(len(data)))
        table = Table(Path(), "action", tuple(data.samples))
        self._units = unit_keys(table)
        self._fold_of = _deal_labelled(
            table, self._units, (data.truth != NOT_LABELLED).any(dim=1).tolist(), folds, seed
        )
        self._views: dict[tuple[object, ...], ViewDataset] = {}

    def units_of(self, fold: int) -> list[str]:
        """Return what the samples of a fold show, in the order of their losses."""
        return [self._units[row] for row in self._rows_of(fold)]

    def judge(self, config: TrainConfig, fold: int, on_progress: OnProgress) -> tuple[tuple[float, ...], float]:
        """Train on the other folds; return the losses of the samples of this one, and the metric.

        The weights are those of the last epoch, so the epoch was not chosen on the evaluated samples.

        Raises:
            SettingsError: a loss is not finite.
        """
        require("accelerate", "train").utils.set_seed(config.seed)
        model = build_classifier(config, self.contract)
        assert isinstance(model, ClipClassifier)
        load_bases(model, self._bases)
        model.adapt(config)
        model.to(self.share.device)
        data = self._views_or_clips(model, config, on_progress)
        learnt = np.flatnonzero(self._fold_of != fold).tolist()
        held = data.part(self._rows_of(fold))
        work = Classification(model, self.contract, config, data.part(learnt), None, self.share, self._scratch)
        with tempfile.TemporaryDirectory(prefix="vidrisk-trial-") as folder:
            fit(
                model,
                work,
                config,
                share=self.share,
                checkpoint=Checkpoint(Path(folder), "", self.share),
                on_epoch=lambda epoch: None,
                on_progress=on_progress,
            )
        logits = compute_logits(model, self.contract, held, config, self.share, on_progress)
        losses = np.mean(
            [
                losses_of_samples(sure, known, target)
                for target, known, sure in answers_from_logits(self.contract, logits, held.truth)
            ],
            axis=0,
        )
        reports = report_on_logits(self.contract, logits, held.truth)
        metric = float(np.mean([metric_of(report, config.optim.metric) for report in reports.values()]))
        return tuple(round(float(loss), 6) for loss in losses), metric

    def key_of(self, config: TrainConfig) -> tuple[str, ...]:
        """Return a key shared by trials that use the same views."""
        return str(config.lora.last_blocks), str(config.augment), str(config.views), str(config.rgb_diff)

    def _rows_of(self, fold: int) -> list[int]:
        rows: list[int] = np.flatnonzero(self._fold_of == fold).tolist()
        return rows

    def _views_or_clips(
        self, model: ClipClassifier, config: TrainConfig, on_progress: OnProgress
    ) -> ViewDataset | ClipDataset:
        """Return the whole training split as views or clips; recent views are cached, as far as memory allows."""
        if not model.has_frozen_part:
            return self._data
        key = self.key_of(config)
        if key not in self._views:
            work = Classification(model, self.contract, config, self._data, None, self.share, self._scratch)
            work.prepare(on_progress)
            if not isinstance(work.fitted, ViewDataset):
                return self._data
            self._views[key] = work.fitted
            _forget_oldest(self._views, config.cache_mb)
        self._views[key] = self._views.pop(key)  # used last
        return self._views[key]


def _deal_labelled(
    table: Table, units: Sequence[str], labelled: Sequence[bool], folds: int, seed: int
) -> npt.NDArray[np.int64]:
    """Deal labelled samples into folds; return the fold of each sample ``(N,)``, -1 if it is unlabelled.

    ``units`` are those of each sample of the table, from ``unit_keys``: an unlabelled sample can also join others.
    """
    rows: list[int] = np.flatnonzero(labelled).tolist()
    fold_of = np.full(len(labelled), -1)
    fold_of[rows] = deal_folds(
        table.with_samples(replace(table.samples[row], group=units[row]) for row in rows), folds, seed=seed
    )
    return fold_of


def _forget_oldest(views: dict[tuple[object, ...], ViewDataset], room_mb: float) -> None:
    """Keep as many views as fit in memory, and at most one file."""
    while len(views) > 1 and sum(each.memory_mb or float("inf") for each in views.values()) > room_mb:
        del views[next(iter(views))]
