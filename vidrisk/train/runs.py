"""What runs have in common, whatever they train: the folder, what they start from, what a checkpoint must agree with, trackers."""

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
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.checkpoint import Checkpoint
from vidrisk.train.history import Epoch, best_epoch
from vidrisk.train.loop import fit
from vidrisk.train.shares import Share
from vidrisk.train.trackers import Tracker, open_trackers, track_epoch
from vidrisk.train.work import Work


def check_out(out: Path, *, resume: bool) -> None:
    """Refuse to train into anything but a new folder, or an unfinished run that is resumed.

    Raises:
        SettingsError: as said.
    """
    if out.exists() and not out.is_dir():
        raise SettingsError(f"{out} is a file", allowed="a new folder", fix="choose another one")
    if out.exists() and any(out.iterdir()) and not resume:
        raise SettingsError(f"{out} exists and is not empty", fix="run it again with resume, or choose another folder")
    if resume and (out / METRICS).is_file():
        raise SettingsError(f"{out} is a finished run", fix="choose another folder to train again")


def with_start(config: TrainConfig, start: Run | None, out: Path) -> tuple[TrainConfig, list[Path]]:
    """Return the configuration with what the run starts from in it, and the folders of that, the first one first.

    Raises:
        SettingsError: it is of another backbone, or weights in 4 bits are to hold it.
    """
    if start is not None and config.backbone != start.config.backbone:
        raise SettingsError(
            f"{start.root} was trained on {start.config.backbone!r}, and this run is to be on {config.backbone!r}",
            allowed="the same backbone",
            fix="leave the backbone out, or start from none",
        )
    bases = bases_of(out) or ([*start.bases, start.root] if start is not None else [])
    if bases and config.vlm.weights == "4bit":
        raise SettingsError(
            "a start from another run with vlm.weights 4bit, into which its adapter would be rounded",
            allowed="float32, bfloat16",
            fix="set vlm.weights=bfloat16",
        )
    return config.model_copy(update={"start": start_digest(bases[-1]) if bases else None}), bases


def fingerprint(config: TrainConfig, *data: Any) -> str:
    """What must be equal for a checkpoint to be continued: settings, data, and what the run started from."""
    settings = config.model_dump(mode="json", exclude={"trackers", "compare"}, exclude_defaults=True)
    content = [settings, *data]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def fit_run(
    run: Run, model: Trainable, work: Work, checkpoint: Checkpoint, share: Share, on_progress: OnProgress
) -> list[Epoch]:
    """Train, and tell the trackers; the main process alone writes.

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

    ``epochs`` begin with 1; ``start`` says how the state before the first step was judged, and is null where it was no
    candidate.

    Args:
        figures: of the splits, by name.
        parts: samples by split.
        unusable: samples that were left out, with their reasons.
        notes: what was assumed when the data were read.
        trainable: number of parameters that were trained.
        begin_s: when the run began, by ``time.perf_counter``.
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
