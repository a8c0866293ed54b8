"""Training of a classifier: clips or photos with labels, cross-entropy over classes or over each label."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vidrisk.data import Table
from vidrisk.data.targets import NOT_LABELLED
from vidrisk.models.config import Metric, TrainConfig
from vidrisk.models.trainable import TrainableModel
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.augment import augment_clips
from vidrisk.train.class_draws import draw_order, draw_weights, prior_logits, shifts_of_draws
from vidrisk.train.dataset import ClipDataset, moments_of
from vidrisk.train.logit_scale import LogitScale, fit_logit_scale
from vidrisk.train.mirrors import Mirrors
from vidrisk.train.mixing import Mixed, mix_batch
from vidrisk.train.objective import Objective, columns_of_targets
from vidrisk.train.passes import compute_logits, evaluate, metric_of, standardise
from vidrisk.train.probe_start import sees_summaries, start_at_probe
from vidrisk.train.shares import Share
from vidrisk.train.strategies import is_sharded
from vidrisk.train.views import ViewDataset, views_from_clips
from vidrisk.train.work import Draws, Judgement, Work

log = logging.getLogger(__name__)


class Classification(Work):
    """A classifier, and samples with labels.

    Args:
        train, val: clips or photos, or precomputed views of them; val may be None.
        share: share of this process.
        scratch: folder for data that is kept between epochs and does not fit in memory.

    Attributes:
        fitted, judged: the training data, and the data that epochs are evaluated on: views, once they are computed.
    """

    def __init__(
        self,
        model: TrainableModel,
        contract: Contract,
        config: TrainConfig,
        train: ClipDataset | ViewDataset,
        val: ClipDataset | ViewDataset | None,
        share: Share,
        scratch: Path | None = None,
    ) -> None:
        self.scratch = scratch
        self.model, self.contract, self.config, self.share = model, contract, config, share
        self.names = [sample.title for sample in train.samples]
        self._table = Table(Path(), "action", tuple(train.samples))
        self.metric: Metric = config.optim.metric
        self._mirrors = Mirrors(contract.targets)
        self._draws: Tensor | None = None
        shifts = None
        if config.optim.class_weights == "drawn":
            self._draws = draw_weights(train.truth, contract.targets)
            shifts = shifts_of_draws(self._draws, train.truth, contract.targets)
        self._prior = prior_logits(train.truth, contract.targets)
        self._objective = Objective.of(train.truth, contract.targets, config.optim, share, shifts)
        if share.world > 1 and (config.optim.mixup or config.optim.cutmix):
            raise SettingsError(
                "mixup or CutMix in several processes", allowed="one process", fix="leave optim.mixup and cutmix out"
            )
        self.fitted: ViewDataset | ClipDataset = train
        self.judged: ViewDataset | ClipDataset | None = val

    def prepare(self, on_progress: OnProgress) -> None:
        """Compute the output of the frozen layers in advance, if that makes an epoch cheaper."""
        self.fitted = self.make_views(self.fitted, self.config.views, on_progress)
        if self.judged is not None:
            with torch.autocast(self.share.device.type, enabled=False):  # weights are evaluated in their own dtype
                self.judged = self.make_views(self.judged, min(self.config.views, 1), on_progress)

    def make_views(
        self, data: ViewDataset | ClipDataset, views: int, on_progress: OnProgress
    ) -> ViewDataset | ClipDataset:
        """Return views of the samples from the frozen layers, or the samples themselves if that is impossible."""
        if isinstance(data, ViewDataset):
            return data
        kinds = self.config.augment or ()
        if not kinds and data.jitter == 1:
            views = min(views, 1)  # further ones would be identical
        made = views_from_clips(
            self.model,
            data,
            views=views,
            kinds=kinds,
            jitter=data.jitter,
            seed=self.config.seed,
            mirrors=self._mirrors,
            room_mb=self.config.cache_mb,
            disk_mb=self.config.disk_cache_mb,
            scratch=self.scratch,
            share=self.share,
            on_progress=lambda done, total: on_progress("running the frozen layers", done, total),
        )
        if made is None:
            return data
        data.forget()
        return made

    def standardise(self, on_progress: OnProgress) -> None:
        """Give the head and projector inputs of mean 0 and deviation 1, and start linear classifiers at the best probe.

        If rare classes are drawn more often, other classifiers start at the frequencies of the classes.
        """
        standardise(self.model, self.fitted, self.config, self.share, on_progress)
        if self._draws is not None and not is_sharded(self.model):
            self.model.adjust_classifiers([(1.0, prior) for prior in self._prior])
        if self.config.head.start == "probe":
            self.begins_trained = start_at_probe(
                self.model, self.fitted, self._table, self.contract, self.config, self.share, self.scratch, on_progress
            )

    def order_samples(self, order: torch.Generator) -> list[int]:
        return super().order_samples(order) if self._draws is None else draw_order(self._draws, order)

    def inputs(self, batches: Sequence[Sequence[int]], draws: Draws) -> Iterator[Mixed]:
        """Yield augmented frames, or views, and the truth, mixed in pairs if the settings say so."""
        data, share, config = self.fitted, self.share, self.config
        rows: list[list[int]] = [[*share.of(batch)] or [batch[0]] for batch in batches]
        if isinstance(data, ViewDataset):
            data.draw(draws.shared)
            rows = data.numbers_of_draws(rows)
        loader = DataLoader(data, batch_sampler=rows, num_workers=config.workers, generator=draws.order)
        for inputs, truth in loader:
            inputs, truth = inputs.to(share.device), truth.to(share.device)
            if inputs.dtype == torch.uint8:
                inputs, mirrored = augment_clips(
                    moments_of(inputs, config.jitter, draws.own), config.augment or (), draws.own
                )
                truth = self._mirrors.turn(truth.cpu(), mirrored).to(share.device)
            yield mix_batch(inputs, truth, config.optim, draws.own)

    def loss(self, model: Any, inputs: Mixed, batch: Sequence[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the loss of this process's share, and its logits."""
        logits, further = model(inputs.inputs)
        loss = self._objective.loss(logits, further, inputs.truth, batch)
        if inputs.share < 1:
            other = self._objective.loss(logits, further, inputs.other, batch)
            loss = inputs.share * loss + (1 - inputs.share) * other
        return loss, logits

    def scale_logits(self, on_progress: OnProgress) -> None:
        """Calibrate the probabilities on the validation samples if rare classes were drawn more often.

        Does nothing if a class has no validation sample, or if the classifiers started at a probe, which is already
        calibrated.
        """
        if (
            self._draws is None
            or self.judged is None
            or is_sharded(self.model)
            or sees_summaries(self.model, self.judged, self.config)
        ):
            return
        changes = []
        logits = compute_logits(self.model, self.contract, self.judged, self.config, self.share, on_progress)
        targets = self.contract.targets
        for target, columns, found, prior in zip(
            targets, columns_of_targets(targets), logits, self._prior, strict=True
        ):
            truth = self.judged.truth[:, columns]
            rows = truth[:, 0] != NOT_LABELLED
            truth = truth[rows] if target.multi_label else truth[rows, 0]
            has_all = (
                truth.any(dim=0).all()
                if target.multi_label
                else len(torch.bincount(truth).nonzero()) == len(target.labels)
            )
            scale = fit_logit_scale(found[rows], truth, target, prior) if has_all else LogitScale()
            log.info("%s: logits times %.2f, frequencies of classes times %.2f", target.name, scale.scale, -scale.shift)
            changes.append((scale.scale, -scale.shift * prior))
        self.model.adjust_classifiers(changes)

    def judge(self, on_progress: OnProgress) -> Judgement | None:
        """Return the validation loss and the selected metric, averaged over the targets."""
        if self.judged is None:
            return None
        loss, reports = evaluate(self.model, self.contract, self.judged, self.config, self.share, on_progress)
        return Judgement(loss, float(np.mean([metric_of(report, self.metric) for report in reports.values()])))
