"""Splits a table into train, val and test: stratified, seeded, and with clips of one source in one split."""

from __future__ import annotations

import logging
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from vidrisk.data.connected import smallest_connected
from vidrisk.data.table import SPLITS, Sample, SplitName, Table, first_three
from vidrisk.runtimes.contract.errors import DataError, SettingsError

log = logging.getLogger(__name__)

Ratios = tuple[float, float, float]
_Part = TypeVar("_Part", int, SplitName)
MIN_UNITS = 3


def ratios_from_text(text: str) -> Ratios:
    """Parse ratios: ``"8:1:1"`` → ``(8.0, 1.0, 1.0)``.

    Raises:
        SettingsError: not three numbers, a negative one, or no train part.
    """
    try:
        train, val, test = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise SettingsError(f"ratios {text!r}", allowed="train:val:test, such as 8:1:1") from error
    return _check_ratios((train, val, test))


def _check_ratios(ratios: Ratios) -> Ratios:
    if not (all(0 <= ratio < 1e6 for ratio in ratios) and ratios[0] > 0):
        raise SettingsError(f"ratios {':'.join(map(str, ratios))}", allowed="numbers from 0, and more than 0 for train")
    return ratios


def split_table(
    table: Table, *, ratios: Ratios = (8, 1, 1), seed: int = 0, group_by: str | None = None, force: bool = False
) -> Table:
    """Assign a split to every sample; the result does not depend on the order of the samples.

    Samples of one group stay together, and so do the parts of one file. The groups come from ``group_by``, else from
    the table's own groups, else every sample is a group of its own. Every class has a group in train; if enough groups
    are left, no split with a ratio above 0 stays empty.

    The groups are dealt out greedily, the largest first, those with equal labels after one another. Each group adds
    credit to every split in proportion to the ratios, for the whole table, for each label and for each combination of
    labels; the group goes to the split with the most open credit and uses that up. Therefore single samples keep the
    ratios within a few samples, overall and per class; large groups keep them as far as their sizes allow.

    Args:
        table: the samples.
        ratios: parts for train, val and test.
        seed: seed of the order in which groups of equal size and labels are dealt out.
        group_by: ``group``, a target or an extra column; or, with a parenthesis in it, a regular expression with one
            group, searched in each sample's name (``seq(\\d+)``).
        force: replace the split that a table has already; otherwise that one is kept.

    Raises:
        DataError: fewer than three samples or groups, samples without a group, some samples without a split.
        SettingsError: bad ratios, a ``group_by`` that is neither a column nor such an expression, or a ``group_by`` for
            a table that is split already.
    """
    ratios = _check_ratios(ratios)
    without = sum(sample.split is None for sample in table.samples)
    if not force and without < len(table):
        if without:
            raise DataError(
                f"samples without a split: {without} of {len(table)}", fix="fill the rest, or force a new split"
            )
        if group_by is not None:
            raise SettingsError(
                f"group-by {group_by!r} of data that is split already",
                fix="take the split out of the data, or force a new split",
            )
        log.info("%s keeps its existing split", table.root.name)
        return table
    keys = _keys(table, group_by)
    joined = _join_keys(table, keys)
    units = _units(table, joined)
    if len(units) < MIN_UNITS:
        things = "samples" if len(units) == len(table) else "groups" if any(keys) else "files"
        fix = {
            "samples": "add data",
            "files": "add files, or give the rows a split: parts of one file stay in one split",
            "groups": "add data, or group by something finer",
        }[things]
        raise DataError(
            f"{table.root.name} has {len(units)} {things} to split", allowed=f"{MIN_UNITS} or more", fix=fix
        )
    split_of = _deal_to_splits(units, ratios, seed)
    if without < len(table):
        table = replace(table, notes=(*table.notes, f"the split of the data is replaced by a new one, seed {seed}"))
    return table.with_samples(
        replace(sample, split=split_of[unit], group=key)
        for sample, key, unit in zip(table.samples, keys, joined, strict=True)
    )


def hold_out(table: Table, share: float, *, seed: int = 0) -> Table:
    """Move a share of the train split to val, dealt out as in ``split_table``.

    Samples of one group stay together, as do the parts of one file, and every class keeps a group in train; if no other
    groups are left, val stays empty. ``share`` is a part of the train split, between 0 and 1.

    Raises:
        SettingsError: another share.
    """
    if not 0 < share < 1:
        raise SettingsError(f"a share of {share} for val", allowed="more than 0 and less than 1")
    train = table.of_split("train")
    keys = unit_keys(train)
    split_of = _deal_to_splits(_units(train, keys), (1 - share, share, 0), seed)
    moved = iter(replace(sample, split=split_of[key]) for sample, key in zip(train.samples, keys, strict=True))
    return table.with_samples(next(moved) if sample.split == "train" else sample for sample in table.samples)


def choose_split(table: Table, split: str | None) -> Table:
    """Return the samples of a split; without one, those of the test split, or all if the table has no test split.

    A model of the same table was trained on its other splits: they show how well it remembers. The split ``all`` has
    every sample.

    Raises:
        SettingsError: no such split.
    """
    if split is None:
        split = "test" if len(table.of_split("test")) else "all"
    return table if split == "all" else table.of_split(split)


def count_splits(samples: Iterable[Sample]) -> dict[str, int]:
    """Count the samples of each split; those without a split are not counted."""
    return dict(Counter(sample.split for sample in samples if sample.split))


def deal_folds(table: Table, folds: int, *, seed: int = 0) -> list[int]:
    """Return the fold of each sample, 0 to ``folds`` - 1, dealt out as in ``split_table`` with equal parts.

    Samples of one group stay together, as do the parts of one file; every label is spread over as many folds as it has
    groups.

    Raises:
        DataError: fewer groups or files than folds.
        SettingsError: fewer than two folds.
    """
    if folds < 2:
        raise SettingsError(f"{folds} folds", allowed="2 or more")
    keys = unit_keys(table)
    units = _units(table, keys)
    if len(units) < folds:
        raise DataError(
            f"{table.root.name} has {len(units)} groups or files to deal into {folds} folds",
            fix="use fewer folds, or add data",
        )
    drawn = _in_order(units, seed)
    fold_of = dict(zip((unit.key for unit in drawn), _deal(drawn, dict.fromkeys(range(folds), 1 / folds)), strict=True))
    return [fold_of[key] for key in keys]


def unit_keys(table: Table) -> list[str]:
    """Return the unit of each sample: its group, joined with all groups and samples that share a file with it.

    Without a group, the unit is the file. Samples of one unit are never in two folds or splits, and are not independent
    evidence.
    """
    return _join_keys(table, [sample.group for sample in table.samples])


def _deal_to_splits(units: Sequence[_Unit], ratios: Ratios, seed: int) -> dict[str, SplitName]:
    """Return the split of each unit by its key; every class has a unit in train."""
    drawn = _in_order(units, seed)
    shares = {split: ratio / sum(ratios) for split, ratio in zip(SPLITS, ratios, strict=True) if ratio > 0}
    return dict(zip((unit.key for unit in drawn), _deal(drawn, shares, first="train"), strict=True))


def _in_order(units: Sequence[_Unit], seed: int) -> list[_Unit]:
    drawn = list(units)
    random.Random(seed).shuffle(drawn)
    return sorted(drawn, key=lambda unit: (-unit.size, unit.stratum))


def _join_keys(table: Table, keys: Sequence[str | None]) -> list[str]:
    """Return the unit of each sample: its group, and every group and sample that a file joins to it.

    Parts of one file show the same scene, so they are never in two splits, whatever they are grouped by.
    """
    things = [
        [("group", key), ("sample", sample.name)] if key else [("sample", sample.name)]
        for sample, key in zip(table.samples, keys, strict=True)
    ]
    return [name for _, name in smallest_connected(things)]  # the first group of all, else the file


@dataclass(frozen=True)
class _Unit:
    """Samples that stay together: one group, one file, or one sample.

    ``counts`` are samples per feature (see ``_features``).
    """

    key: str
    size: int
    counts: dict[tuple[str, ...], int]

    @property
    def stratum(self) -> tuple[tuple[tuple[str, ...], int], ...]:
        return tuple(sorted(self.counts.items()))

    @property
    def classes(self) -> list[tuple[str, ...]]:
        return [feature for feature in self.counts if len(feature) == 2]


def _features(sample: Sample) -> list[tuple[str, ...]]:
    """Return the features to balance: all samples, each label, and with several targets their combination."""
    labels = [(target, label) for target in sample.labels for label in sample.labels_of(target)]
    combination = [("combination", *(label for _, label in labels))] if len(labels) > 1 else []
    return [("all",), *labels, *combination]


def _units(table: Table, keys: Sequence[str]) -> list[_Unit]:
    members: dict[str, list[Sample]] = defaultdict(list)
    for sample, key in zip(table.samples, keys, strict=True):
        members[key].append(sample)
    return [
        _Unit(key, len(samples), dict(Counter(f for sample in samples for f in _features(sample))))
        for key, samples in sorted(members.items())
    ]


def _keys(table: Table, group_by: str | None) -> list[str | None]:
    """Return each sample's group, or None for all of them if the table has no groups."""
    if group_by is None:
        keys = [sample.group for sample in table.samples]
        if not any(keys):
            return keys
        log.info("%s is split by the groups of its group column", table.root.name)
        group_by = "group"
    elif "(" in group_by:
        pattern = group_pattern(group_by)
        keys = [match.group(1) if (match := pattern.search(sample.name)) else None for sample in table.samples]
    else:
        keys = [_cell(sample, group_by) for sample in table.samples]
    lacking = [sample.name for sample, key in zip(table.samples, keys, strict=True) if not key]
    if lacking:
        raise DataError(
            f"{group_by!r} gives {len(lacking)} of {len(keys)} samples no group: {first_three(lacking)}",
            fix="use a column that is filled everywhere, or an expression that is found in every name",
        )
    return keys


def group_table(table: Table, group_by: str | None) -> Table:
    """Return a table with the groups that ``split_table`` would keep together, or unchanged if ``group_by`` is None.

    Raises:
        DataError, SettingsError: as ``split_table``.
    """
    if group_by is None:
        return table
    return table.with_samples(
        replace(sample, group=key) for sample, key in zip(table.samples, _keys(table, group_by), strict=True)
    )


def group_pattern(expression: str) -> re.Pattern[str]:
    """Compile the regular expression that finds a group.

    Raises:
        SettingsError: not a regular expression, or one without exactly one group.
    """
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise SettingsError(f"group-by {expression!r} is not a regular expression: {error}") from error
    if pattern.groups != 1:
        raise SettingsError(
            f"group-by {expression!r} has {pattern.groups} groups",
            allowed="one, as in seq([0-9]+)",
            fix="write the other parentheses as (?:…)",
        )
    return pattern


def _cell(sample: Sample, column: str) -> str | None:
    cells = {
        "group": sample.group or "",
        **sample.extra,
        **{target: sample.label_text(target) for target in sample.labels},
    }
    if column not in cells:
        raise SettingsError(
            f"group-by {column!r} is not a column",
            allowed=", ".join(cells),
            fix="or give a regular expression with one group, as in seq([0-9]+)",
        )
    return cells[column]


def _deal(units: Sequence[_Unit], shares: Mapping[_Part, float], first: _Part | None = None) -> list[_Part]:
    """Deal out units to parts, in their order.

    The ``shares`` of the parts sum to 1. Every class gets a unit in the part ``first``.
    """
    credit: defaultdict[tuple[tuple[str, ...], _Part], float] = defaultdict(float)
    in_first: set[tuple[str, ...]] = set()
    chosen: list[_Part] = []
    free = []  # indices of units that no class needs in ``first``
    for i, unit in enumerate(units):
        for feature, count in unit.counts.items():
            for part, share in shares.items():
                credit[feature, part] += share * count
        needed = first is not None and any(cls not in in_first for cls in unit.classes)
        open_credit = {part: sum(credit[f, part] * count for f, count in unit.counts.items()) for part in shares}
        part = first if first is not None and needed else max(open_credit, key=open_credit.__getitem__)
        if part == first:
            in_first.update(unit.classes)
        if not needed:
            free.append(i)
        for feature, count in unit.counts.items():
            credit[feature, part] -= count
        chosen.append(part)
    for part in shares:
        filled = Counter(chosen)
        movable = next((i for i in reversed(free) if filled[chosen[i]] > 1), None)
        if part not in filled and movable is not None:
            chosen[movable] = part
    return chosen
