from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrisk.data import Sample, Table, check_leaks
from vidrisk.data.leaks import PIECE_BYTES, leaks_from_table
from vidrisk.data.table import SPLITS, SplitName
from vidrisk.runtimes.contract.bundle import sha256_of
from vidrisk.runtimes.contract.errors import DataError

Row = tuple[str, bytes, str, SplitName | None]  # name, content, label, split


def table_of(root: Path, rows: Iterable[Row], groups: dict[str, str] | None = None) -> Table:
    samples = []
    for name, content, label, split in rows:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
        samples.append(Sample(root / name, name, {"action": label}, split=split, group=(groups or {}).get(name)))
    return Table(root, "action", tuple(samples))


def test_copies_in_two_splits_are_counted_and_named(tmp_path: Path) -> None:
    rows: list[Row] = [
        (f"{split}/{number}.jpg", f"content {number}".encode(), "a", split)
        for number in range(5)
        for split in ("train", "test")
    ]
    (line,) = leaks_from_table(table_of(tmp_path, rows))
    assert line == (
        "contents that are in two splits (5): train/0.jpg (train) = test/0.jpg (test), train/1.jpg (train) = "
        "test/1.jpg (test), train/2.jpg (train) = test/2.jpg (test) and 2 more"
    )


def test_one_content_with_two_labels(tmp_path: Path) -> None:
    rows: list[Row] = [
        ("a.jpg", b"same", "crack", None),
        ("b.jpg", b"same", "ok", None),
        ("c.jpg", b"same", "ok", None),
    ]
    assert leaks_from_table(table_of(tmp_path, rows)) == [
        "contents that have two labels (1): a.jpg (crack) = b.jpg (ok)"
    ]


def test_groups_in_two_splits(tmp_path: Path) -> None:
    rows: list[Row] = [("a.jpg", b"1", "a", "train"), ("b.jpg", b"2", "a", "test"), ("c.jpg", b"3", "a", "train")]
    table = table_of(tmp_path, rows, {"a.jpg": "wall 1", "b.jpg": "wall 1", "c.jpg": "wall 2"})
    assert leaks_from_table(table) == ["groups that are in two splits (1): wall 1"]


def test_samples_of_one_file_in_two_splits_and_links_to_it(tmp_path: Path) -> None:
    table = table_of(tmp_path, [("a.mp4", b"clip", "a", "train"), ("a.mp4", b"clip", "a", "val")])
    assert leaks_from_table(table) == ["contents that are in two splits (1): a.mp4 (train) = a.mp4 (val)"]
    (tmp_path / "link.mp4").symlink_to("a.mp4")
    linked = Sample(tmp_path / "link.mp4", "link.mp4", {"action": "a"}, split="test")
    assert "link.mp4 (test)" in leaks_from_table(table.with_samples([table.samples[0], linked]))[0]


def test_what_is_no_leak(tmp_path: Path) -> None:
    middle = bytes(10 * PIECE_BYTES)
    rows: list[Row] = [
        ("a.jpg", b"same", "a", "train"),
        ("b.jpg", b"same", "a", "train"),  # a copy in its own split
        ("c.jpg", b"1", "a", "train"),
        ("d.jpg", b"2", "a", "test"),  # of one size
        ("e.bmp", middle, "a", "train"),
        ("f.bmp", middle[:PIECE_BYTES] + b"x" + middle[PIECE_BYTES + 1 :], "a", "test"),
        ("g.jpg", b"", "a", "train"),
        ("h.jpg", b"", "a", "test"),  # nothing in them
    ]
    table = table_of(tmp_path, rows)
    os.mkfifo(tmp_path / "pipe.jpg")
    others = [Sample(tmp_path / name, name, {"action": "a"}, split="test") for name in ("pipe.jpg", "gone.jpg")]
    assert leaks_from_table(table.with_samples([*table.samples, *others])) == []


contents = st.sampled_from(
    [b"", b"one", b"two", bytes(20_000), bytes(19_999) + b"1", bytes(7_000) + b"1" + bytes(12_999)]
)
rows_of = st.lists(st.tuples(contents, st.sampled_from("ab"), st.sampled_from([None, *SPLITS])), max_size=8)


@settings(max_examples=60, deadline=None)
@given(rows_of)
def test_the_quick_way_finds_what_comparing_everything_finds(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[bytes, str, SplitName | None]]
) -> None:
    table = table_of(tmp_path_factory.mktemp("t"), [(f"{number}.jpg", *row) for number, row in enumerate(rows)])
    by_content: dict[str, list[Sample]] = {}
    for sample in table.samples:
        if sample.path.stat().st_size:
            by_content.setdefault(sha256_of(sample.path), []).append(sample)
    crossing = sum(len({sample.split for sample in same if sample.split}) > 1 for same in by_content.values())
    contradictory = sum(len({sample.labels["action"] for sample in same}) > 1 for same in by_content.values())
    expected = [
        f"{what} ({count})"
        for what, count in (
            ("contents that are in two splits", crossing),
            ("contents that have two labels", contradictory),
        )
        if count
    ]
    assert [line.partition(":")[0] for line in leaks_from_table(table)] == expected


def test_a_warning_or_with_strict_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = table_of(tmp_path, [("a.jpg", b"same", "a", "train"), ("b.jpg", b"same", "b", "test")])
    with caplog.at_level(logging.WARNING, logger="vidrisk"):
        check_leaks(table)
    assert "in two splits (1)" in caplog.text and "have two labels (1)" in caplog.text
    with pytest.raises(
        DataError, match=r"in two splits \(1\).*have two labels \(1\).*allowed: every content.*fix: remove"
    ):
        check_leaks(table, strict=True)
    check_leaks(table.with_samples(table.samples[:1]), strict=True)
