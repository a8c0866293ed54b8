"""Plots as PNG: of a run, loss and metric per epoch and a confusion matrix per split and target; of a bench, its speed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidrisk.metrics import Metrics
from vidrisk.runtimes.errors import require

if TYPE_CHECKING:
    from vidrisk.bench.result import Bench
    from vidrisk.train.loop import Epoch


def plot_run(folder: Path, history: Sequence[Epoch], reports: Mapping[str, Mapping[str, Metrics]], metric: str) -> None:
    """Write ``loss.png``, ``metric.png`` and ``confusion-<split>-<target>.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    epochs = [e.epoch for e in history]
    val_loss = [e.val_loss for e in history if e.val_loss is not None]
    losses = {"train": [e.train_loss for e in history], **({"val": val_loss} if val_loss else {})}
    _lines(folder / "loss.png", epochs, losses, "loss")
    if val_loss:
        _lines(folder / "metric.png", epochs, {"val": [e.metric for e in history if e.metric is not None]}, metric)
    for split, by_target in reports.items():
        for target, report in by_target.items():
            plot_confusion(folder / f"confusion-{split}-{target}.png", report)


def _figure(width: float, height: float) -> Any:
    """A figure with no window behind it, in a font that has CJK characters where the system has one."""
    require("matplotlib", "train")
    from matplotlib import font_manager, rcParams
    from matplotlib.figure import Figure

    installed = {font.name for font in font_manager.fontManager.ttflist}
    cjk = [name for name in ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "SimHei", "PingFang SC")
           if name in installed]
    rcParams["font.family"] = ["DejaVu Sans", *cjk]
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _save(figure: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a character that no font here has is drawn as a box
        figure.savefig(path)


def _lines(path: Path, epochs: list[int], series: dict[str, list[float]], label: str) -> None:
    figure = _figure(6, 4)
    axes = figure.subplots()
    for name, values in series.items():
        axes.plot(epochs, values, marker="o", markersize=3, label=name)
    axes.set(xlabel="epoch", ylabel=label)
    axes.legend()
    axes.grid(alpha=0.3)
    _save(figure, path)


def plot_confusion(path: Path, report: Metrics) -> None:
    """Rows are the truth, columns the prediction, shades the share of the row."""
    counts = np.asarray(report.confusion)
    labels = [per_class.label for per_class in report.per_class]
    side = max(4.0, 0.5 * len(labels) + 2)
    figure = _figure(side + 1, side)
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true", title=f"top-1 {report.top1:.1%}, macro-F1 {report.macro_f1:.3f}, n {report.n}")
    if len(labels) <= 30:
        for row, column in np.ndindex(*counts.shape):
            if counts[row, column]:
                axes.text(column, row, int(counts[row, column]), ha="center", va="center", fontsize=8,
                          color="white" if shares[row, column] > 0.5 else "black")
    _save(figure, path)


def plot_bench(path: Path, bench: Bench) -> None:
    """On the left latency at batch 1, median and 95th percentile; on the right throughput by batch."""
    rows = [(f"{row.runtime} {row.variant}", row.frame, row.throughput) for row in bench.rows if row.frame and row.throughput]
    figure = _figure(11, max(3.5, 0.45 * len(rows) + 2))
    left, right = figure.subplots(1, 2)
    for place, (name, latency, throughput) in enumerate(rows):
        colour = f"C{place}"
        left.barh(place, latency.p50_ms, color=colour)
        left.plot((latency.p50_ms, latency.p95_ms), (place, place), color="black", marker="|", markersize=9)
        batches = list(throughput.frames_per_s)
        right.plot(batches, throughput.frames_per_s.values(), color=colour, marker="o", markersize=4, label=name)
        right.plot(throughput.best_batch, throughput.best_frames_per_s, color=colour, marker="*", markersize=12)
    left.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    left.invert_yaxis()
    left.set(xlabel="ms per frame at batch 1: median, and line to the 95th percentile", xlim=(0, None))
    right.set_xscale("log", base=2)
    right.xaxis.set_major_formatter("{x:.0f}")
    right.set(xlabel="batch", ylabel="frames/s", ylim=(0, None))
    right.legend()
    figure.suptitle(f"{bench.bundle} on {bench.machine['processor']}", parse_math=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    _save(figure, path)
