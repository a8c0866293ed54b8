"""Comparison of the frozen probe, the head alone, and LoRA with the head on the same samples.

The rows:

    probe   a logistic regression on features of the frozen encoder: the start of training (epoch 0)
    head    the same head, trained with the same settings on features of the frozen encoder
    lora    the run
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vidrisk.metrics.paired_models import Compared, compare_answers
from vidrisk.metrics.target_report import labelled_rows, right_answers
from vidrisk.models.classifier import ClipClassifier
from vidrisk.models.config import TrainConfig
from vidrisk.models.pretrained import build_head
from vidrisk.models.trainable import TrainableModel
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import VidriskError, first_line, require
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.checkpoint import Checkpoint
from vidrisk.train.class_work import Classification
from vidrisk.train.dataset import ClipDataset
from vidrisk.train.frozen_features import compute_features
from vidrisk.train.history import Epoch
from vidrisk.train.loop import fit
from vidrisk.train.passes import answers_from_logits, compute_logits
from vidrisk.train.views import ViewDataset

log = logging.getLogger(__name__)

PROBE, HEAD, LORA = "probe", "head", "lora"
Logits = tuple[Tensor, ...]


def compare_parts(
    model: TrainableModel,
    work: Classification,
    parts: Mapping[str, ClipDataset],
    logits: Mapping[str, Logits],
    on_progress: OnProgress,
) -> dict[str, Any] | None:
    """Train the head alone, and compare it and the probe with the run on val and test.

    The model cannot be used afterwards: its encoder is frozen, and its head replaced. ``work`` is the one that the
    model was trained with; its views are reused. ``parts`` are the samples, and ``logits`` those of the run, both by
    split.

    Returns:
        The entry of ``metrics.json``: ``splits`` with the shares of right answers, and ``says`` with a line per target.
        None if there is nothing to compare: no LoRA, no encoder with a head, several processes, or only training
        samples.
    """
    config, contract = work.config, work.contract
    if not config.compare or work.share.world > 1 or not logits:
        return None
    if not isinstance(model, ClipClassifier) or model.encoder.is_frozen:
        return None

    def tell(what: str, done: int, total: int) -> None:
        on_progress(f"head alone: {what}", done, total)

    features: dict[str, ViewDataset] = {}
    room_mb = float(config.cache_mb)
    for name, data in {"train": work.fitted, "val": work.judged, "test": parts.get("test")}.items():
        if data is None:
            continue
        found = _frozen_features(model, work, data, config.views if name == "train" else 1, room_mb, tell)
        if found is None:
            log.warning(
                "cache_mb is too small for the features of the %s split: LoRA is not compared with the head alone", name
            )
            return None
        features[name] = found
        room_mb -= found.memory_mb
    answers = {LORA: logits, **_train_head(model, config, contract, features, work, tell)}
    return compare_answers_of_parts(
        contract, answers, {name: (parts[name].truth, [s.group for s in parts[name].samples]) for name in logits}
    )


def try_comparison(
    model: TrainableModel,
    work: Classification,
    parts: Mapping[str, ClipDataset],
    logits: Mapping[str, Logits],
    on_progress: OnProgress,
) -> dict[str, Any] | None:
    """Run ``compare_parts``, but only warn if it fails, because the run itself is complete."""
    try:
        return compare_parts(model, work, parts, logits, on_progress)
    except (VidriskError, MemoryError, OSError, RuntimeError) as error:
        log.warning("LoRA is not compared with the head alone: %s", first_line(error))
        return None


def _frozen_features(
    model: ClipClassifier,
    work: Classification,
    data: ClipDataset | ViewDataset,
    views: int,
    room_mb: float,
    on_progress: OnProgress,
) -> ViewDataset | None:
    """Return features of the frozen encoder, or None if they do not fit.

    For clips and photos, ``views`` views are computed, as many as a frozen encoder is trained on.
    """
    if isinstance(data, ViewDataset):
        return compute_features(model, data, room_mb, on_progress)
    with model.as_frozen():
        made = work.make_views(data, max(1, views), on_progress)
    return made if isinstance(made, ViewDataset) else None


def _train_head(
    model: ClipClassifier,
    config: TrainConfig,
    contract: Contract,
    features: Mapping[str, ViewDataset],
    work: Classification,
    on_progress: OnProgress,
) -> dict[str, dict[str, Logits]]:
    """Return, by split, the logits of the head alone, and those of the probe if training starts at one."""
    share = work.share
    require("accelerate", "train").utils.set_seed(config.seed)
    model.freeze(build_head(config, contract, model.encoder))
    alone = Classification(model, contract, config, features["train"], features.get("val"), share)

    def ask() -> dict[str, Logits]:
        return {
            name: compute_logits(model, contract, data, config, share, on_progress)
            for name, data in features.items()
            if name != "train"
        }

    found: dict[str, dict[str, Logits]] = {}

    def keep_probe(epoch: Epoch) -> None:
        if not epoch.epoch:
            found[PROBE] = ask()

    with tempfile.TemporaryDirectory(prefix="vidrisk-head-") as folder:
        fit(
            model,
            alone,
            config,
            share=share,
            checkpoint=Checkpoint(Path(folder), "", share),
            on_epoch=keep_probe,
            on_progress=on_progress,
        )
    alone.scale_logits(on_progress)
    return {**found, HEAD: ask()}


def compare_answers_of_parts(
    contract: Contract,
    answers: Mapping[str, Mapping[str, Logits]],
    truth: Mapping[str, tuple[Tensor, Sequence[str | None]]],
) -> dict[str, Any]:
    """Compare right answers; for a multi-label target all labels of a sample have to be right.

    ``answers`` are logits by part and split. ``truth`` holds by split the labels ``int64 (N, columns)``, and the groups
    of the samples.
    """
    splits: dict[str, dict[str, Any]] = {}
    lines: dict[str, str] = {}
    for split, (wanted, groups) in truth.items():
        right: dict[str, dict[str, np.ndarray[Any, np.dtype[np.bool_]]]] = {}
        of_groups: dict[str, list[str | None]] = {}
        for part in (PROBE, HEAD, LORA):
            for target, known, sure in (
                answers_from_logits(contract, answers[part][split], wanted) if part in answers else ()
            ):
                rows = labelled_rows(known)
                right.setdefault(target.name, {})[part] = right_answers(target, known, sure)[rows]
                of_groups[target.name] = [group for group, is_known in zip(groups, rows, strict=True) if is_known]
        splits[split] = {}
        for name, by_part in right.items():
            if not len(by_part[LORA]):
                continue
            beside = {
                part: compare_answers(by_part[part], by_part[LORA], of_groups[name]) for part in by_part if part != LORA
            }
            splits[split][name] = {
                "n": len(by_part[LORA]),
                "metric": beside[HEAD].measure,
                **{part: float(each.mean()) for part, each in by_part.items()},
                "beside": {part: each.to_dict() for part, each in beside.items()},
            }
            lines[name] = _line(name, split, beside[HEAD])  # that of test, if there is one
    return {"splits": splits, "says": [*lines.values()]}


def _line(target: str, split: str, beside: Compared) -> str:
    told = (
        f"{beside.second:.1%} right versus {beside.first:.1%} for the head alone, p = {beside.p_value:.2g}, "
        f"{beside.samples} samples"
    )
    where = f"({target}, {split}: {told})"
    if beside.verdict == "better":
        return f"LoRA is better than the head alone {where}"
    if beside.verdict == "worse":
        return f"LoRA is worse than the head alone {where}; lora.last_blocks=0 trains the head alone, faster"
    return f"LoRA adds nothing beyond chance {where}; lora.last_blocks=0 trains and exports the same, faster"
