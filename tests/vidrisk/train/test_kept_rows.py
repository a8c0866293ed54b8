"""Tests of rows that are kept between epochs: in memory, then on disk, and never above the limits."""

from __future__ import annotations

import resource
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.train.kept_rows import KeptRows

ROW = 400  # bytes


def row_of(number: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.arange(ROW // dtype.itemsize) + number).to(dtype).reshape(2, -1)


KINDS = [torch.uint8, torch.float16, torch.float32]


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(0, 8), st.integers(0, 8), st.sampled_from(KINDS))
def test_what_is_kept_comes_back_and_the_first_come_are_kept(
    numbers: list[int], memory: int, disk: int, dtype: torch.dtype
) -> None:
    rows = KeptRows(memory * ROW, disk * ROW + 1)
    kept: list[int] = []
    for number in numbers:
        is_kept = rows.put(number, row_of(number, dtype))
        assert is_kept == (number in kept or len(kept) < memory + disk)
        if is_kept and number not in kept:
            kept.append(number)
    for number in range(31):
        found = rows.get(number)
        assert (found is not None) == (number in kept) == (number in rows)
        assert found is None or (torch.equal(found, row_of(number, dtype)) and found.dtype == dtype)
    assert rows.memory_bytes == min(len(kept), memory) * ROW
    rows.clear()
    assert rows.memory_bytes == 0 and all(rows.get(number) is None for number in kept)


def test_the_file_has_no_name_and_is_gone_with_its_rows(tmp_path: Path) -> None:
    rows = KeptRows(0, 10 * ROW, tmp_path)
    assert rows.put(0, row_of(0)) and list(tmp_path.iterdir()) == []
    opened = len(list(Path("/proc/self/fd").iterdir()))
    rows.clear()
    assert len(list(Path("/proc/self/fd").iterdir())) == opened - 1


def test_a_full_disk_is_said_once_and_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 2**30 + ROW + 1))
    rows = KeptRows(0, 2**20, tmp_path)
    assert rows.put(0, row_of(0))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 2**30))
    assert not rows.put(1, row_of(1)) and not rows.put(2, row_of(2))
    first = rows.get(0)
    assert first is not None and torch.equal(first, row_of(0)) and caplog.text.count("does not fit on disk") == 1


def test_a_folder_that_is_not_there_costs_no_run(tmp_path: Path) -> None:
    assert not KeptRows(0, 2**20, tmp_path / "none").put(0, row_of(0))


def test_memory_does_not_grow_with_what_is_on_disk(tmp_path: Path) -> None:
    rows, row = KeptRows(0, 2**30, tmp_path), torch.zeros(2**20, dtype=torch.uint8)
    rows.put(0, row)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(1, 200):
        assert rows.put(number, row) and rows.get(number) is not None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # of 200 MB, in KiB
