"""Start of training: classifiers set to a logistic regression on the untrained features.

A head that starts at zero learns in a few hundred steps whatever separates the training samples, and LoRA follows it.
One that starts at the regularised optimum leaves LoRA little to change, and generalises better to other scenes (Kumar
et al. 2022, Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution).
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import torch

from vidrisk.data import Table
from vidrisk.models.config import TrainConfig
from vidrisk.models.trainable import TrainableModel
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.dataset import ClipDataset, chunks_of
from vidrisk.train.objective import columns_of_targets
from vidrisk.train.probe import PIECE_BYTES, Floats, Ints
from vidrisk.train.probe_choice import fit_start
from vidrisk.train.shares import Share
from vidrisk.train.strategies import is_sharded
from vidrisk.train.views import ViewDataset

log = logging.getLogger(__name__)

MOST_BYTES = 2**29  # maximum size of the summaries
MOST_IN_MEMORY = 2**25  # larger summaries go into a mapped file


def start_at_probe(
    model: TrainableModel,
    train: ClipDataset | ViewDataset,
    table: Table,
    contract: Contract,
    config: TrainConfig,
    share: Share,
    scratch: Path | None,
    on_progress: OnProgress,
) -> bool:
    """Fit a regression on the classifiers' inputs for the training samples, and start the classifiers there.

    Its decay is the largest one that is as good, within a standard error, as the best on samples outside its training
    set; samples of one group are always in the same fold. If views are kept, all of them are used. If rare classes are
    drawn more often, decay, scale and bias of the probe are the most likely ones for samples outside its training set.
    The main process does it for all. Does nothing if another part in front of the classifiers is trained, or if the
    weights are sharded.

    ``table`` holds the training samples, for their groups. ``scratch`` is the folder for a file of summaries that do
    not fit in memory; None takes the system's folder.

    Returns:
        Whether the classifiers start there; the same in all processes.
    """
    if is_sharded(model):
        return False
    is_started = False
    model.eval()
    if share.is_main:
        summaries = _summaries(model, train, config, scratch, on_progress)
        if summaries is not None:
            rows, views, features = summaries
            truth = train.truth[rows].numpy()
            # Sample and view of every row of the features.
            sample, view = np.tile(np.arange(len(rows)), views), np.repeat(np.arange(views), len(rows))
            found = []
            for target, columns in zip(contract.targets, columns_of_targets(contract.targets), strict=True):
                of_target = truth[:, columns] if target.multi_label else truth[:, columns.start]
                turned = (
                    _truth_of_views(train, rows, views, columns, target)
                    if isinstance(train, ViewDataset)
                    else of_target
                )
                found.append(
                    fit_start(
                        features,
                        of_target,
                        turned,
                        sample,
                        view,
                        target,
                        table.with_samples(table.samples[row] for row in rows),
                        config,
                    )
                )
            model.start_classifiers(found)
            is_started = True
    share.copy_main(tensor for name, tensor in model.state_dict().items() if name.startswith(model.own_parts))
    return any(share.gather(is_started))


@torch.inference_mode()
def sees_summaries(model: TrainableModel, data: ClipDataset | ViewDataset, config: TrainConfig) -> bool:
    """Return whether the classifiers of a model start at a probe."""
    return (
        config.head.start == "probe"
        and model.summaries(data.plain([0]).to(next(model.parameters()).device)) is not None
    )


@torch.inference_mode()
def _summaries(
    model: TrainableModel,
    train: ClipDataset | ViewDataset,
    config: TrainConfig,
    scratch: Path | None,
    on_progress: OnProgress,
) -> tuple[list[int], int, Floats] | None:
    """Return the summaries of every view, ``(views * samples, S)``, view by view.

    They come after the numbers of the samples, and the number of views. None if the classifiers see no summaries.
    """
    first = model.summaries(train.plain([0]).to(next(model.parameters()).device))
    if first is None:
        return None
    room = max(1, MOST_BYTES // (4 * first.shape[1]))
    views = max(1, min(train.count if isinstance(train, ViewDataset) else 1, room // len(train)))
    rows = [int(row) for row in np.linspace(0, len(train) - 1, min(len(train), room // views)).round()]
    rows = sorted(set(rows))
    kept = _empty_floats((views * len(rows), first.shape[1]), scratch)
    for view in range(views):
        for chunk in chunks_of(len(rows), config.frames):
            done = view * len(rows) + chunk[0]
            on_progress("fitting a probe", done, views * len(rows))
            found = model.summaries(train.plain([rows[place] for place in chunk], view).to(first.device))
            assert found is not None
            kept[done : done + len(chunk)] = found.float().cpu().numpy()
    return rows, views, kept


def _empty_floats(shape: tuple[int, int], scratch: Path | None) -> Floats:
    """Return an uninitialised array; a large one is mapped from an unnamed file.

    Mapped memory is not the process's own: the system can reclaim it.
    """
    size = 4 * shape[0] * shape[1]
    if size <= MOST_IN_MEMORY:
        return np.empty(shape, np.float32)
    try:
        with tempfile.TemporaryFile(prefix="vidrisk-probe-", dir=scratch) as file:
            # Written in advance: running out of disk space at a mapped page would kill the process.
            for begin in range(0, size, PIECE_BYTES):
                file.write(bytes(min(PIECE_BYTES, size - begin)))
            file.flush()
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as error:
        log.warning(
            "summaries for a probe do not fit on disk (%s): they take %.0f MB of memory", error.strerror, size / 2**20
        )
        return np.empty(shape, np.float32)


def _truth_of_views(train: ViewDataset, rows: list[int], views: int, columns: slice, target: Target) -> Ints:
    """Return the truth of every view, with the labels of mirrored ones swapped: ``(views * samples, …)``."""
    every = torch.stack([train.truth_of(row, view) for view in range(views) for row in rows])[:, columns].numpy()
    return every if target.multi_label else every[:, 0]
