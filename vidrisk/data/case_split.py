"""Splits cases into train, val and test like other tables; cases that show the same thing stay in one split."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vidrisk.data.case_columns import find_column
from vidrisk.data.cases import Case, Cases
from vidrisk.data.connected import smallest_connected
from vidrisk.data.leaks import straddling_groups
from vidrisk.data.photo_paths import keys_of_photos
from vidrisk.data.split import Ratios, group_pattern, split_table
from vidrisk.data.table import Sample, Table, first_three
from vidrisk.runtimes.contract.errors import DataError, SettingsError

log = logging.getLogger(__name__)


def split_cases(
    cases: Cases,
    *,
    ratios: Ratios = (8, 1, 1),
    seed: int = 0,
    group_by: str | None = None,
    force: bool = False,
    strict: bool = False,
) -> Cases:
    """Assign a split to every case; see ``split_table``.

    Cases of one group or with the same id, and cases that share a photo, stay together. The proportions are ``ratios``,
    and the choice depends only on ``seed``.

    ``group_by`` is a field or an extra column; if it contains a parenthesis, it is a regular expression with one group,
    which is searched in the id and in the names of the photos. With ``force``, cases that have a split already are
    split again; otherwise they keep it, and cases that belong together but are in two splits cause a warning, or an
    error with ``strict``.

    Raises:
        DataError: fewer than three groups, some cases without a split, or some without a group; with ``strict``, cases
            that belong together in two splits.
        SettingsError: bad ratios, or a ``group_by`` that is not a column.
    """
    groups = _groups(cases, group_by)
    units = _units(cases.cases, groups)
    samples = tuple(
        Sample(Path(case.id), case.id, {"level": case.level}, split=case.split, group=unit)
        for case, unit in zip(cases.cases, units, strict=True)
    )
    table = Table(cases.root, "risk", samples)
    done = split_table(table, ratios=ratios, seed=seed, group_by="group" if group_by else None, force=force)
    split = {sample.name: sample.split for sample in done.samples}
    found = tuple(
        replace(case, split=split[case.id], group=group) for case, group in zip(cases.cases, groups, strict=True)
    )
    leaks = _check_leaks(done.samples, cases.root.name, strict=strict)
    return replace(cases, cases=found, notes=(*cases.notes, *done.notes, *leaks))


def _groups(cases: Cases, group_by: str | None) -> list[str | None]:
    if group_by is None:
        return [case.group for case in cases.cases]
    if "(" in group_by:
        pattern = group_pattern(group_by)
        groups = [
            next((found[1] for name in _names(case) if (found := pattern.search(name))), None) for case in cases.cases
        ]
    else:
        cells = [{"group": case.group or "", **case.extra, **case.fields} for case in cases.cases]
        known = list(dict.fromkeys(name for case in cells for name in case))
        column = find_column(known, (group_by, group_by.removeprefix("data_")))
        if column is None:
            raise SettingsError(
                f"group-by {group_by!r} is not a column",
                allowed=", ".join(known),
                fix="or give a regular expression with one group, as in building([0-9]+)",
            )
        groups = [case.get(column) or None for case in cells]
    lacking = [case.id for case, group in zip(cases.cases, groups, strict=True) if not group]
    if lacking:
        raise DataError(
            f"{group_by!r} gives {len(lacking)} of {len(groups)} cases no group: {first_three(lacking)}",
            fix="use a column that is filled everywhere, or an expression that is found in every name",
        )
    return groups


def _names(case: Case) -> list[str]:
    return [case.id, *(photo.name for photo in case.photos)]


def _units(cases: Sequence[Case], groups: Sequence[str | None]) -> list[str]:
    """Return a key per case: cases with the same key must stay together.

    These are cases of one group or with the same id, and all that share a photo with them.
    """
    things = [
        [
            ("case", case.id),
            *keys_of_photos(case.photos),
            *([("id", case.written_id)] if case.written_id else []),
            *([("group", group)] if group else []),
        ]
        for case, group in zip(cases, groups, strict=True)
    ]
    return [": ".join(key) for key in smallest_connected(things)]


def _check_leaks(samples: Sequence[Sample], name: str, *, strict: bool) -> list[str]:
    """Warn of units that are in two splits, which may come from the data; return the warnings.

    Raises:
        DataError: with ``strict``, there is such a unit.
    """
    pairs = [" = ".join(f"{sample.name} ({sample.split})" for sample in pair) for pair in straddling_groups(samples)]
    if not pairs:
        return []
    line = f"cases that share an id, a photo or a group and are in two splits: {len(pairs)} ({first_three(pairs)})"
    if strict:
        raise DataError(
            f"{name}: {line}",
            allowed="every id, photo and group in one split",
            fix="remove the copies, or take the split out of the data, to have them split anew",
        )
    log.warning("%s: %s", name, line)
    return [line]
