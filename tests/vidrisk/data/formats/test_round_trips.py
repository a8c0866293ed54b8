"""Tests of round trips: every writable format is read back as written, and reports the parts it cannot carry."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from drawn_tables import content_of, file_of, tables
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vidrisk.data import Sample
from vidrisk.data.data_sets import write_data_set
from vidrisk.data.formats import FORMATS, Format, format_of
from vidrisk.data.formats.fit import fit_table
from vidrisk.data.formats.format import PARTS, Reading, Writing
from vidrisk.data.table import Table, main_target
from vidrisk.runtimes.contract.errors import DataError

WRITTEN = [known for known in FORMATS.values() if known.write]


@pytest.mark.parametrize("known", WRITTEN, ids=lambda known: known.name)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_what_is_written_is_read_back_as_it_was(known: Format, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "media")
        table = data.draw(tables(root, known))
        fitted, _ = fit_table(table, known)
        if not fitted.samples:
            return
        destination = root / f"set{known.suffix}" if not known.copies else Path(folder, f"set{known.suffix}")
        assert known.write is not None
        try:
            known.write(fitted, destination, Writing())
        except DataError as error:  # what a column has one unit for
            assert "intervals in seconds and in frames" in str(error)
            return
        assert format_of(destination) in (known, None)
        assert content_of(read(known, destination, fitted), named=not known.copies) == content_of(
            fitted, named=not known.copies
        )
        shutil.rmtree(folder, ignore_errors=True)


def read(known: Format, destination: Path, table: Table) -> Table:
    """Read a data set with the task of its table, and with several labels per sample if the table has them."""
    made = destination.parent / "made"
    reading = Reading(
        table.task, known.splits[0] if known.splits else 0, multi_label=bool(table.multi_targets), made=made
    )
    listed = known.read(destination, reading)
    assert not listed.absent
    return Table(listed.root, table.task, listed.samples, label_order=listed.label_order)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), parts=st.sets(st.sampled_from(PARTS)))
def test_what_a_format_cannot_carry_is_taken_out_and_counted(data: st.DataObject, parts: set[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = replace(FORMATS["ucf101"], tasks=("action", "risk", "action+risk"), carries=frozenset(PARTS))
        table = data.draw(tables(Path(folder), whole))
        assert fit_table(table, whole) == (replace(table, notes=()), {}) or table.label_order
        some = replace(whole, carries=frozenset(parts))  # type: ignore[arg-type]
        fitted, lost = fit_table(table, some)
        assert fit_table(fitted, some) == (fitted, {})
        left_out = len(table) - len(fitted)
        assert left_out <= sum(count for what, count in lost.items()) and (not left_out or lost)
        assert fitted.multi_targets == frozenset() or "multi-label" in parts


@pytest.mark.parametrize("known", WRITTEN, ids=lambda known: known.name)
def test_a_name_that_is_not_unicode_is_copied_or_refused_in_one_line(known: Format, tmp_path: Path) -> None:
    suffix = "mp4" if "clips" in known.carries else "png"
    path = file_of(tmp_path / "media", os.fsdecode(b"a\xff.") + suffix, 0)
    table = Table(tmp_path / "media", known.tasks[0], (Sample(path, path.name, {main_target(known.tasks[0]): "x"}),))
    destination = (tmp_path if known.copies else tmp_path / "media") / f"set{known.suffix}"
    try:
        write_data_set(table, destination, name=known.name)
    except DataError as error:
        assert "\n" not in str(error) and "fix: re" in str(error)
        assert (
            not [name for name in destination.parent.iterdir() if name.name.startswith(".")]
            and not destination.exists()
        )
    else:
        assert destination.exists()
