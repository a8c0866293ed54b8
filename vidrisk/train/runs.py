"""The common parts of all runs: the folder, the start, the fingerprint of a checkpoint, and trackers."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

from vidrisk.models.bases import bases_of, start_digest
from vidrisk.models.config import TrainConfig
from vidrisk.models.run import METRICS, Run
from vidrisk.models.trainable import Trainable
from vidrisk.runtimes.contract.errors import Interrupted, SettingsError
from vidrisk.runtimes.contract.outputs import refuse_below_file
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.checkpoint import Checkpoint
from vidrisk.train.history import Epoch, best_epoch
from vidrisk.train.loop import fit
from vidrisk.train.shares import Share
from vidrisk.train.trackers import Tracker, open_trackers, track_epoch
from vidrisk.train.work import Work


def check_out(out: Path, *, resume: bool) -> None:
    """Refuse a folder unless it is new, or an unfinished run to be resumed.

    Raises:
        SettingsError: the folder cannot be used.
    """
    refuse_below_file(out)
    if out.exists() and not out.is_dir():
        raise SettingsError(f"{out} is a file", allowed="a new folder", fix="choose another one")
    if out.exists() and any(out.iterdir()) and not resume:
        raise SettingsError(f"{out} exists and is not empty", fix="run it again with resume, or choose another folder")
    if resume and (out / METRICS).is_file():
        raise SettingsError(f"{out} is a finished run", fix="choose another folder to train again")


def with_start(config: TrainConfig, start: Run | None, out: Path) -> tuple[TrainConfig, list[Path]]:
    """Return the configuration with the digest of the start, and the folders of the bases, the earliest first.

    Raises:
        SettingsError: the start has another backbone, or its weights are to be merged into 4-bit ones.
    """
    if start is not None and config.backbone != start.config.backbone:
        raise SettingsError(
            f"{start.root} was trained on {start.config.backbone!r}, but this run uses {config.backbone!r}",
            allowed="the same backbone",
            fix="leave the backbone out, or start from none",
        )
    bases = bases_of(out) or ([*start.bases, start.root] if start is not None else [])
    if bases and config.vlm.weights == "4bit":
        raise SettingsError(
            "a start from another run with vlm.weights 4bit, which would round its merged adapter",
            allowed="float32, bfloat16",
            fix="set vlm.weights=bfloat16",
        )
    return config.model_copy(update={"start": start_digest(bases[-1]) if bases else None}), bases


def fingerprint(config: TrainConfig, *data: Any) -> str:
    """Return a hash of what a checkpoint must agree with: settings, data, and the start of the run."""
    settings = config.model_dump(mode="json", exclude={"trackers", "compare"}, exclude_defaults=True)
    content = [settings, *data]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def fit_run(
    run: Run, model: Trainable, work: Work, checkpoint: Checkpoint, share: Share, on_progress: OnProgress
) -> list[Epoch]:
    """Train, and report to the trackers; only the main process writes.

    Raises:
        Interrupted: Ctrl-C.
    """
    trackers: list[Tracker] = open_trackers(run.config, run.root) if share.is_main else []
    try:
        return fit(
            model,
            work,
            run.config,
            share=share,
            checkpoint=checkpoint,
            on_progress=on_progress,
            on_epoch=lambda epoch: track_epoch(trackers, epoch, work.metric),
        )
    except KeyboardInterrupt:
        raise Interrupted("stopped by Ctrl-C", fix=f"run it again with resume, which continues in {run.root}") from None
    finally:
        for tracker in trackers:
            tracker.close()


def metrics_of_run(
    history: Sequence[Epoch],
    figures: Mapping[str, Any],
    parts: Mapping[str, Sized],
    unusable: Sequence[Mapping[str, str]],
    notes: Sequence[str],
    trainable: int,
    begin_s: float,
) -> dict[str, Any]:
    """Return the content of ``metrics.json``.

    ``epochs`` starts with 1; ``start`` holds the figures before the first step, or null if that was not a candidate.

    Args:
        history: all epochs.
        figures: figures of the splits, by name.
        parts: samples by split.
        unusable: samples that were left out, with their reasons.
        notes: assumptions made when the data were read.
        trainable: number of trained parameters.
        begin_s: start time of the run, by ``time.perf_counter``.
    """
    return {
        "best_epoch": best_epoch(history),
        "start": next(
            ({"val_loss": epoch.val_loss, "metric": epoch.metric} for epoch in history if not epoch.epoch), None
        ),
        "epochs": [vars(epoch) for epoch in history if epoch.epoch],
        **figures,
        "samples": {name: len(part) for name, part in parts.items()},
        "unreadable": [*unusable],
        "data_notes": [*notes],
        "trainable_parameters": trainable,
        "seconds": round(time.perf_counter() - begin_s, 1),
    }
