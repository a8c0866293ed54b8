"""Plots of a run: loss and metric per epoch, and confusion matrices per split and single-label target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vidrisk.metrics.classification import Metrics
from vidrisk.metrics.plots import plot_confusion, plot_lines
from vidrisk.metrics.target_report import TargetMetrics
from vidrisk.train.history import Epoch


def plot_run(
    folder: Path, history: Sequence[Epoch], reports: Mapping[str, Mapping[str, TargetMetrics]], metric: str
) -> None:
    """Write ``loss.png``, ``metric.png`` and ``confusion-<split>-<target>.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    train = {e.epoch: e.train_loss for e in history if e.train_loss is not None}
    val = {e.epoch: e.val_loss for e in history if e.val_loss is not None}
    plot_lines(folder / "loss.png", {"train": train, **({"val": val} if val else {})}, "loss")
    if val:
        plot_lines(folder / "metric.png", {"val": {e.epoch: e.metric for e in history if e.metric is not None}}, metric)
    for split, by_target in reports.items():
        for target, report in by_target.items():
            if isinstance(report, Metrics):
                plot_confusion(folder / f"confusion-{split}-{target}.png", report)
