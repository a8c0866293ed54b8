"""Plots as PNG: lines, a confusion matrix, a learning curve, and the error by the share kept."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vidrisk.metrics.certainty import Certainty
from vidrisk.metrics.classification import Metrics
from vidrisk.metrics.learning_curve import LearningCurve
from vidrisk.runtimes.contract.errors import require


def new_figure(width: float, height: float) -> Any:
    """Create a figure without a window, with a CJK font if the system has one."""
    require("matplotlib", "train")
    from matplotlib import font_manager, rcParams
    from matplotlib.figure import Figure

    installed = {font.name for font in font_manager.fontManager.ttflist}
    cjk = [
        name
        for name in ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "SimHei", "PingFang SC")
        if name in installed
    ]
    rcParams["font.family"] = ["DejaVu Sans", *cjk]
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a character missing from every font is drawn as a box
        figure.savefig(path)


def plot_lines(path: Path, series: Mapping[str, Mapping[int, float]], label: str) -> None:
    """Plot series over the epochs.

    Args:
        path: PNG file to write.
        series: by name, values by epoch.
        label: of the y axis.
    """
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for name, values in series.items():
        axes.plot([*values], [*values.values()], marker="o", markersize=3, label=name)
    axes.set(xlabel="epoch", ylabel=label)
    axes.legend()
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def plot_learning_curve(path: Path, curve: LearningCurve, title: str) -> None:
    """Plot every measurement, the fitted power law, and the forecast with its interval."""
    figure = new_figure(6, 4)
    axes = figure.subplots()
    sizes = np.array(list(curve.scores))
    for size, scores in curve.scores.items():
        axes.plot([size] * len(scores), scores, "o", color="tab:blue", markersize=3, alpha=0.6)
    ahead = curve.forecast
    line = np.geomspace(sizes.min(), ahead.samples, 100)
    axes.plot(line, 1 - np.clip(curve.floor + curve.scale * line**-curve.rate, 0, 1), color="tab:blue")
    low, high = ahead.interval
    axes.errorbar(
        [ahead.samples],
        [ahead.score],
        [[max(0.0, ahead.score - low)], [max(0.0, high - ahead.score)]],
        fmt="s",
        color="tab:orange",
        capsize=4,
        label=f"forecast at {ahead.samples}, 90 %",
    )
    axes.set(xlabel="samples learnt from", ylabel="score", xscale="log", title=title)
    axes.legend()
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def plot_confusion(path: Path, report: Metrics) -> None:
    """Plot a confusion matrix: rows are the truth, columns the prediction, shades the share of the row."""
    counts = np.asarray(report.confusion)
    labels = [per_class.label for per_class in report.per_class]
    side = max(4.0, 0.5 * len(labels) + 2)
    figure = new_figure(side + 1, side)
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set(
        xlabel="predicted",
        ylabel="true",
        title=f"top-1 {report.top1:.1%}, macro-F1 {report.macro_f1:.3f}, n {report.n}",
    )
    if len(labels) <= 30:
        for row, column in np.ndindex(*counts.shape):
            if counts[row, column]:
                axes.text(
                    column,
                    row,
                    int(counts[row, column]),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if shares[row, column] > 0.5 else "black",
                )
    save_figure(figure, path)


def plot_risk(path: Path, certainty: Certainty) -> None:
    """Plot the error of the most confident answers by their share of all, and the operating point of the thresholds."""
    figure = new_figure(6, 4)
    axes = figure.subplots()
    axes.step(
        certainty.curve.kept,
        certainty.curve.error,
        where="pre",
        label=f"by probability, area {certainty.curve.area:.4f}",
    )
    if certainty.kept and certainty.accuracy_of_kept is not None:
        axes.plot(
            certainty.kept,
            1 - certainty.accuracy_of_kept,
            "o",
            color="C1",
            label=f"certain at a coverage of {certainty.asked:.0%}" if certainty.asked else "certain",
        )
    axes.set(xlabel="share kept", ylabel="error of what is kept", xlim=(0, 1.02), ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    save_figure(figure, path)
