"""Training of a model that writes reports, from conversations to a run directory.

The steps are tokens, photos, model, loop, and figures of its answers.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidrisk.data.cases import PhotoSource
from vidrisk.data.report_data import ReportData
from vidrisk.data.scheme_target import comparisons_from_scheme, target_from_scheme
from vidrisk.data.table import SPLITS
from vidrisk.decode.pool import DecodePool, default_workers
from vidrisk.models.bases import copy_base, load_bases
from vidrisk.models.config import TrainConfig
from vidrisk.models.pretrained import Labels, build_reporter, contract_from_config, resolve_config
from vidrisk.models.run import SCHEME, SOURCE, Run
from vidrisk.models.vlm.reporter import Reporter
from vidrisk.runtimes.contract.errors import DataError, require
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.runtimes.text.vocabulary import Vocabulary
from vidrisk.train.checkpoint import Checkpoint
from vidrisk.train.conversations import Conversations, Photos
from vidrisk.train.failures import name_memory_knobs
from vidrisk.train.report_work import Reporting
from vidrisk.train.run_plots import plot_run
from vidrisk.train.runs import check_out, fingerprint, fit_run, metrics_of_run, with_start
from vidrisk.train.shares import Share, name_lost_processes, open_share
from vidrisk.train.strategies import gather_weights
from vidrisk.train.trackers import check_trackers

log = logging.getLogger(__name__)


@name_lost_processes()
def train_reports(
    data: ReportData,
    config: TrainConfig,
    out: Path,
    *,
    source: Mapping[str, Any],
    start: Run | None = None,
    resume: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> Run:
    """Train on conversations and write a run directory.

    Args:
        data: the conversations.
        config: settings of the run.
        out: folder of the run.
        source: location of the data, in the arguments of ``load_report_data``; an export reads them again.
        start: run whose trained weights are merged into the backbone first; the new run keeps a copy of them.
        resume: continue an unfinished run in ``out``.
        on_progress: called with (what, done, total).

    Raises:
        SettingsError: ``out`` exists (without resume), or holds a finished run; ``start`` has another backbone; a
            setting does not apply to reports; a loss is not finite.
        DataError: no conversation of the train split can be used.
        VidriskError: out of memory, or another process has ended.
    """
    share = open_share()
    on_progress = on_progress if share.is_main else ignore_progress
    check_out(out, resume=resume)
    check_trackers(config)
    begin = time.perf_counter()
    config = resolve_config(config, clips=False)
    config, bases = with_start(config, start, out)
    targets = (target_from_scheme(data.scheme),) if data.scheme else ()
    labels = Labels(targets=targets, clips=False)
    contract = contract_from_config(config, labels)
    rows = sorted(
        (item.id, item.split or "", [photo.name for photo in item.images], [turn.text for turn in item.turns])
        for item in data.items
    )
    checkpoint = Checkpoint(out / "checkpoints", fingerprint(config, rows), share)
    if checkpoint.exists():
        checkpoint.read_state()  # raises for another run's checkpoint before anything is read or written
    with DecodePool(config.workers or default_workers()) as pool, name_memory_knobs():
        require("accelerate", "train").utils.set_seed(config.seed)
        model = build_reporter(config, contract.pixel)
        load_bases(model, bases)
        model.adapt(config)
        photos = Photos(data.items, contract.pixel, pool, config.cache_mb)
        parts, unusable = _usable_parts(data, model, config, photos, share, on_progress)
        longest = max(sequence.longest_answer for sequence in parts["train"].sequences)
        report = config.report.model_copy(update={"longest_answer": longest})
        run = Run(out, config.model_copy(update={"report": report}), labels)
        if share.is_main:
            if start is not None:
                copy_base(start.root, out)
            out.mkdir(parents=True, exist_ok=True)
            _write_data(out, data, source)
        share.wait()
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        work = Reporting(model, config, photos, parts["train"], parts.get("val"), share)
        history = fit_run(run, model, work, checkpoint, share, on_progress)
        with gather_weights(model):
            if share.is_main:
                run.save(model)
        figures = {
            name: vars(work.judge_conversations(part, on_progress)) for name, part in parts.items() if name != "train"
        }
    if share.is_main:
        plot_run(out / "plots", history, {}, work.metric)
        run.write_metrics(metrics_of_run(history, {"reports": figures}, parts, unusable, data.notes, trainable, begin))
    share.wait()
    return run


def _usable_parts(
    data: ReportData, model: Reporter, config: TrainConfig, photos: Photos, share: Share, on_progress: OnProgress
) -> tuple[dict[str, Conversations], list[dict[str, str]]]:
    """Return the usable conversations per split, and the others with their reasons."""
    unreadable: dict[PhotoSource, str] = photos.check(on_progress, share)
    encoder = Vocabulary.from_text(model.tokenizer_text, model.chat.ends)
    choices = comparisons_from_scheme(data.scheme).values() if data.scheme else ()
    parts: dict[str, Conversations] = {}
    unusable: list[dict[str, str]] = []
    for name in SPLITS:
        items = data.of_split(name)
        if not items:
            continue
        part = Conversations(
            items,
            photos,
            unreadable,
            encoder,
            model.chat.pieces,
            model.chat.ends[0],
            model.grid,
            system=config.vlm.system,
            limits=model.token_limits,
            choices=choices,
        )
        unusable += part.left_out
        if not len(part):
            reason = part.left_out[0]["reason"]
            raise DataError(f"no conversation of the {name} split can be used; the first: {reason}")
        parts[name] = part
    if unusable:
        log.warning(
            "%d of %d conversations cannot be used and are left out (listed in metrics.json); the first: %s: %s",
            len(unusable),
            len(data),
            unusable[0]["id"],
            unusable[0]["reason"],
        )
    if "train" not in parts:
        raise DataError("no conversation is in the train split", fix="correct the split column, or leave it out")
    if "val" not in parts:
        log.warning("no conversation is in the val split: training runs to the last epoch, without early stopping")
    return parts, unusable


def _write_data(out: Path, data: ReportData, source: Mapping[str, Any]) -> None:
    """Record the location of the data, the members of each split, and the scheme."""
    if data.scheme is not None:
        (out / SCHEME).write_text(data.scheme.to_json() + "\n", encoding="utf-8")
    record = {**source, "splits": {name: [item.id for item in data.of_split(name)] for name in SPLITS}}
    text = json.dumps(
        {key: os.fspath(value) if isinstance(value, Path) else value for key, value in record.items()},
        ensure_ascii=False,
    )
    (out / SOURCE).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
