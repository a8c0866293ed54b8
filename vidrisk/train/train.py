"""From a table to a run directory: split, contract, model, loop, test metrics, plots."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path

from vidrisk.data import Table, check_leaks, guidance_from_table, split_table, targets_from_table
from vidrisk.data.skew import describe_skew
from vidrisk.data.table import SPLITS, first_three
from vidrisk.frames import kind_of
from vidrisk.frames.media import name_of
from vidrisk.models.bases import copy_base, load_bases
from vidrisk.models.config import TrainConfig
from vidrisk.models.pretrained import Labels, build_classifier, contract_from_config, resolve_config
from vidrisk.models.run import Run
from vidrisk.models.trainable import TrainableModel
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import DataError, require
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.train.checkpoint import Checkpoint
from vidrisk.train.class_draws import settle_class_weights
from vidrisk.train.class_work import Classification
from vidrisk.train.compare_parts import try_comparison
from vidrisk.train.dataset import ClipDataset
from vidrisk.train.failures import name_memory_knobs
from vidrisk.train.head_choice import choose_head
from vidrisk.train.mirrors import settle_mirroring
from vidrisk.train.passes import compute_logits, report_on_logits
from vidrisk.train.run_plots import plot_run
from vidrisk.train.runs import check_out, fingerprint, fit_run, metrics_of_run, with_start
from vidrisk.train.shares import Share, name_lost_processes, open_share
from vidrisk.train.strategies import gather_weights
from vidrisk.train.trackers import check_trackers
from vidrisk.train.tune import check_tuning, search_settings
from vidrisk.train.tune_folds import count_folds
from vidrisk.train.tune_space import Tuning

log = logging.getLogger(__name__)


@name_lost_processes()
def train_run(
    table: Table,
    config: TrainConfig,
    out: Path,
    *,
    start: Run | None = None,
    resume: bool = False,
    strict: bool = False,
    tune: Tuning | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Run:
    """Train on a table and write a run directory.

    If a launcher started several processes (see ``shares``), the main one writes.

    Args:
        table: labelled samples; without a split of its own it is split 8:1:1 (``config.group_by`` keeps sources
            together).
        config: settings of the run.
        out: folder to make. With ``resume`` the unfinished run in it is continued.
        start: run whose trained weights, except those of the head, are merged into the backbone first; the new run
            keeps a copy of them.
        resume: continue an unfinished run.
        strict: refuse leaks that ``check_leaks`` otherwise only warns of.
        tune: search for settings on the training split first.
        on_progress: called with (what, done, total).

    Raises:
        SettingsError: ``out`` exists (without resume), or holds a finished run; ``start`` has another backbone; a loss
            is not finite.
        DataError: too few samples, or unreadable ones; with ``strict`` also leaks.
        VidriskError: out of memory, or another process has ended.
    """
    share = open_share()
    on_progress = on_progress if share.is_main else ignore_progress
    check_out(out, resume=resume)
    check_trackers(config)
    check_tuning(tune, config, out, share)
    begin = time.perf_counter()
    table = split_table(table, seed=config.seed, group_by=config.group_by)
    check_leaks(table, strict=strict)
    train = table.of_split("train")
    for line in describe_skew(train):
        log.warning("%s: %s", name_of(table.root.name), line)
    labels = labels_from_table(table, config)
    if tune is not None:
        count_folds(train)  # raises for too few samples before all are read
    settle = partial(settle_config, labels=labels, train=train)
    asked, config = config, settle(config)
    contract = contract_from_config(config, labels)
    config, bases = with_start(config, start, out)
    checkpoint = Checkpoint(out / "checkpoints", _fingerprint(config, table, tune), share)
    if checkpoint.exists():
        checkpoint.read_state()  # raises for another run's checkpoint before anything is read or written
    scratch = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    parts, unreadable = _readable_parts(table, contract, config, share, scratch, on_progress)
    if "val" not in parts:
        log.warning("no sample is in the val split: training runs to the last epoch, without early stopping")
    if tune is not None:
        asked = search_settings(
            asked,
            config,
            tune,
            settle,
            contract,
            parts["train"],
            bases,
            share,
            out,
            checkpoint.fingerprint,
            scratch,
            on_progress,
        )
        config = settle(asked).model_copy(update={"start": config.start})
    if share.world == 1:
        config = choose_head(config, contract, parts["train"], bases, on_progress)
    run = Run(out, config, labels)
    with name_memory_knobs():
        model = _fresh_model(config, contract, bases)
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if share.is_main:
            if start is not None:
                copy_base(start.root, out)  # raises for another run's base before anything is written
            run.root.mkdir(parents=True, exist_ok=True)
            run.write_split(table)
        share.wait()
        work = Classification(model, contract, config, parts["train"], parts.get("val"), share, scratch)
        history = fit_run(run, model, work, checkpoint, share, on_progress)
        work.scale_logits(on_progress)
        with gather_weights(model):
            if share.is_main:
                run.save(model)
        logits = {
            name: compute_logits(model, contract, data, config, share, on_progress)
            for name, data in parts.items()
            if name != "train"
        }
        reports = {name: report_on_logits(contract, found, parts[name].truth) for name, found in logits.items()}
        compared = try_comparison(model, work, parts, logits, on_progress)
    if share.is_main:
        plot_run(out / "plots", history, reports, config.optim.metric)
        figures = {
            name: {target: report.to_dict() for target, report in by_target.items()}
            for name, by_target in reports.items()
        }
        metrics = metrics_of_run(history, figures, parts, unreadable, table.notes, trainable, begin)
        run.write_metrics({**metrics, "compared": compared})
    share.wait()
    return run


def _fresh_model(config: TrainConfig, contract: Contract, bases: list[Path]) -> TrainableModel:
    """Build the pretrained model, merged with earlier runs, with untrained LoRA and head."""
    require("accelerate", "train").utils.set_seed(config.seed)
    model = build_classifier(config, contract)
    load_bases(model, bases)
    model.adapt(config)
    return model


def settle_config(config: TrainConfig, labels: Labels, train: Table) -> TrainConfig:
    """Return the configuration with everything resolved except the head of clips.

    Raises:
        SettingsError: see ``resolve_config`` and ``settle_mirroring``.
    """
    resolved = resolve_config(settle_class_weights(config, train), clips=labels.clips)
    return settle_mirroring(resolved, config.augment, labels.targets)


def labels_from_table(table: Table, config: TrainConfig) -> Labels:
    """Return the targets and guidance of the training split, and whether the inputs are clips."""
    videos = [kind_of(sample.path) == "video" for sample in table.samples]
    clips = any(videos)
    if clips and not all(videos):
        photo = table.samples[videos.index(False)].name
        raise DataError(f"clips and photos are mixed: {photo} is a photo", fix="train on one kind at a time")
    train = table.of_split("train")
    if not len(train):
        raise DataError("no sample is in the train split", fix="correct the split column, or leave it out")
    for name in train.target_names:
        if len(labels := train.labels_of(name)) < 2:
            raise DataError(
                f"the train split has one {name} label only ({labels[0]})",
                allowed="two or more",
                fix="correct the split column, or force a new split",
            )
    targets = targets_from_table(train, config.level_order)
    for target in targets:
        unlearnt = [sample for sample in table.samples if not set(sample.labels_of(target.name)) <= set(target.labels)]
        if unlearnt:
            found = sorted(
                {label for sample in unlearnt for label in sample.labels_of(target.name)} - set(target.labels)
            )
            raise DataError(
                f"{target.name} labels that no sample of the train split has ({len(found)}): {first_three(found)}; the "
                f"first of {len(unlearnt)} samples is {unlearnt[0].title} in {unlearnt[0].split}",
                fix="give samples of them to train, correct the labels, or force a new split",
            )
    return Labels(targets=targets, guidance=guidance_from_table(train), clips=clips)


def _readable_parts(
    table: Table, contract: Contract, config: TrainConfig, share: Share, scratch: Path, on_progress: OnProgress
) -> tuple[dict[str, ClipDataset], list[dict[str, str]]]:
    """Return a dataset per split without the unreadable samples, and these samples with their reasons.

    Every file is decoded once before the first step, so a run cannot fail on a bad file in its fifth hour.
    """
    parts: dict[str, ClipDataset] = {}
    unreadable: list[dict[str, str]] = []
    notes: dict[str, str] = {}
    room_mb = float(config.cache_mb)
    for name in SPLITS:
        part = table.of_split(name)
        if not len(part):
            continue
        data = ClipDataset(
            part,
            contract,
            jitter=config.jitter if name == "train" else 1,
            decoder=config.decoder,
            cache_mb=room_mb,
            disk_mb=config.disk_cache_mb / share.world,
            scratch=scratch,
        )
        bad = data.drop_unreadable(partial(on_progress, f"reading {name}"), share)
        room_mb -= data.cached_mb * share.world  # later, each process caches what all of them together do now
        unreadable += [{**sample.identity, "split": name, "reason": reason} for sample, reason in bad]
        notes |= data.notes
        if not len(data):
            raise DataError(f"no sample of the {name} split can be read; the first: {bad[0][1]}")
        parts[name] = data
    if unreadable:
        log.warning(
            "%d of %d samples cannot be read and are left out (listed in metrics.json); the first: %s",
            len(unreadable),
            len(table),
            unreadable[0]["reason"],
        )
    if notes:
        log.warning(
            "%d of %d samples are read with a reservation; the first: %s: %s",
            len(notes),
            len(table),
            *next(iter(notes.items())),
        )
    return parts, unreadable


def _fingerprint(config: TrainConfig, table: Table, tune: Tuning | None) -> str:
    rows = sorted((s.title, s.split or "", sorted(s.labels.items())) for s in table.samples)
    order = [{target: table.labels_of(target) for target in table.label_order}] if table.label_order else []
    search = [] if tune is None else [{"tune": tune.trials, "fixed": sorted(tune.fixed)}]
    return fingerprint(config, rows, *order, *search)
