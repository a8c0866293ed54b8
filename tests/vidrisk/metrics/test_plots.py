from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidrisk.metrics.certainty import certainty_report
from vidrisk.metrics.classification import Metrics, classification_report
from vidrisk.metrics.plots import plot_confusion, plot_risk
from vidrisk.runtimes import Target
from vidrisk.runtimes.uncertainty import Uncertainty
from vidrisk.train.history import Epoch
from vidrisk.train.run_plots import plot_run


def report(labels: tuple[str, ...]) -> Metrics:
    truth = np.arange(len(labels) * 2) % len(labels)
    return classification_report(truth, np.eye(len(labels))[truth], labels)


def is_drawn(path: Path) -> bool:
    with Image.open(path) as image:
        return image.format == "PNG" and len(set(image.convert("L").tobytes())) > 8


def test_a_run_with_validation_has_loss_metric_and_confusion(tmp_path: Path) -> None:
    rates = {"head": 1e-2, "lora": 1e-3}
    history = [Epoch(1, 1.0, 1.1, 0.4, rates), Epoch(2, 0.5, 0.8, 0.7, rates)]
    plot_run(tmp_path / "plots", history, {"val": {"action": report(("a", "b"))}}, "top1")
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {"loss.png", "metric.png", "confusion-val-action.png"}
    assert all(is_drawn(p) for p in (tmp_path / "plots").iterdir())


def test_a_run_without_validation_has_the_loss_alone(tmp_path: Path) -> None:
    plot_run(tmp_path, [Epoch(1, 1.0, None, None)], {}, "top1")
    assert [p.name for p in tmp_path.iterdir()] == ["loss.png"]


@pytest.mark.parametrize("labels", [("$\\bad$", "a$b"), ("蓝色 🎥", "轻微"), tuple(f"class {i}" for i in range(31))])
def test_any_label_can_be_drawn(labels: tuple[str, ...], tmp_path: Path) -> None:
    plot_confusion(tmp_path / "confusion.png", report(labels))
    assert is_drawn(tmp_path / "confusion.png")


@pytest.mark.parametrize(
    "knows", [Uncertainty(0.9, {"t": (0.6, 0.6)}), Uncertainty(0.9, {"t": (1.0, 1.0)}), Uncertainty()]
)
def test_the_error_is_drawn_by_the_share_kept(knows: Uncertainty, tmp_path: Path) -> None:
    """The plot is drawn with thresholds, with thresholds that keep nothing, and without thresholds."""
    truth = np.arange(40) % 2
    sure = np.linspace(0.5, 0.99, 40)
    probabilities = np.stack([sure, 1 - sure], axis=1)
    plot_risk(tmp_path / "risk.png", certainty_report(truth, probabilities, Target(name="t", labels=("a", "b")), knows))
    assert is_drawn(tmp_path / "risk.png")
