"""Tests of the best epoch and of early stopping; the state before the first step counts as an epoch."""

from __future__ import annotations

import pytest

from vidrisk.train.history import Epoch, best_epoch, is_stale


def history_of(*metrics: float | None, first: int = 1, losses: tuple[float, ...] = ()) -> list[Epoch]:
    return [
        Epoch(number, 1.0 if number else None, losses[place] if losses else None, metric)
        for place, (number, metric) in enumerate(zip(range(first, first + len(metrics)), metrics, strict=True))
    ]


def test_best_epoch() -> None:
    assert best_epoch(history_of(0.5, 0.9, 0.7)) == 2
    assert best_epoch(history_of(0.5, 0.9, 0.9)) == 3
    assert best_epoch(history_of(None, None)) == 2


def test_where_training_begins_is_best_unless_an_epoch_beats_it() -> None:
    assert best_epoch(history_of(0.9, 0.5, 0.7, first=0)) == 0
    assert best_epoch(history_of(0.9, 0.9, first=0, losses=(0.2, 0.3))) == 0
    assert best_epoch(history_of(0.9, 0.9, first=0, losses=(0.3, 0.2))) == 1


def test_a_smaller_loss_with_the_same_metric_is_better() -> None:
    assert not is_stale(history_of(0.8, 0.8, 0.8, losses=(0.5, 0.4, 0.3)), 2)
    assert is_stale(history_of(0.8, 0.8, 0.8, losses=(0.3, 0.4, 0.5)), 2)
    assert is_stale(history_of(0.8, 0.8, 0.8, losses=(0.3, 0.3, 0.3)), 2)


@pytest.mark.parametrize(
    ("metrics", "patience", "stale"),
    [
        ((0.5, 0.4, 0.3), 2, True),
        ((0.5, 0.4), 2, False),
        ((0.5, 0.5, 0.5), 2, True),
        ((0.5, 0.4, 0.6), 2, False),
        ((0.5, 0.4), None, False),
        ((), 1, False),
        ((None, None, None), 1, False),
    ],
)
@pytest.mark.parametrize("first", [0, 1])
def test_patience_counts_epochs_without_a_better_metric(
    metrics: tuple[float | None, ...], patience: int | None, stale: bool, first: int
) -> None:
    assert is_stale(history_of(*metrics, first=first), patience) is stale
