"""Chooses a few samples of a table; every class and every source gets its share."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np

from vidrisk.data.table import Label, Sample, Table
from vidrisk.frames import Interval

Item = TypeVar("Item")


def make_balanced_order(table: Table, seed: int) -> list[Sample]:
    """Order all samples, with the first N of them balanced over classes, and within a class over sources, for any N.

    The class is the combination of all labels; the source is the group, or else the folder of the file. Classes and
    sources take turns, in an order drawn from the seed; a class that runs out leaves its turns to the others.
    """
    rng = random.Random(seed)
    classes: dict[tuple[Label, ...], dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in sorted(table.samples, key=lambda sample: sample.order):
        classes[tuple(sample.labels.values())][sample.group or str(sample.path.parent)].append(sample)
    by_class = []
    for sources in classes.values():
        lines = [rng.sample(samples, len(samples)) for samples in sources.values()]
        by_class.append(list(_in_turns(rng.sample(lines, len(lines)))))
    return list(_in_turns(rng.sample(by_class, len(by_class))))


def few_per_class(table: Table, count: int, seed: int) -> Table:
    """Choose up to ``count`` samples of each class in each split, in the table's order, with their sources in turns."""
    left: Counter[tuple[Label | None, ...]] = Counter()
    kept = set()
    for sample in make_balanced_order(table, seed):
        place = (sample.split, *sample.labels.values())
        left[place] += 1
        if left[place] <= count:
            kept.add(sample.order)
    return table.with_samples(sample for sample in table.samples if sample.order in kept)


def spread_evenly(items: Sequence[Item], most: int) -> list[Item]:
    """Choose at most ``most`` items, evenly spread over all, in their order."""
    return [items[int(place)] for place in np.linspace(0, len(items) - 1, min(len(items), most)).round()]


class Shown:
    """Files and intervals that some samples cover: ``sample in shown`` tells whether a sample overlaps any of them."""

    def __init__(self, table: Table) -> None:
        self._parts: dict[Path, list[Interval | None]] = defaultdict(list)
        for sample in table.samples:
            self._parts[sample.path.resolve()].append(sample.interval)

    def __contains__(self, sample: Sample) -> bool:
        own = sample.interval
        return any(
            own is None or part is None or own.overlaps(part) for part in self._parts.get(sample.path.resolve(), ())
        )


def draw_samples(table: Table, count: int, seed: int) -> Table:
    """Draw ``count`` samples at random, in the table's order; classes keep their frequencies."""
    chosen = sorted(np.random.default_rng(seed).permutation(len(table))[:count])
    return table.with_samples(table.samples[i] for i in chosen)


def _in_turns(lines: Sequence[Sequence[Sample]]) -> Iterator[Sample]:
    for row in zip_longest(*lines):
        yield from (sample for sample in row if sample is not None)
