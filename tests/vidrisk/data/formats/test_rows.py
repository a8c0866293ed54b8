"""Tests of rows that become samples: repeated rows, overlapping parts and missing files are reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from trees import touch

from vidrisk.data.formats.media_files import Homes, MediaFiles
from vidrisk.data.formats.rows import Row, count_overlapping, samples_from_rows
from vidrisk.frames import Interval
from vidrisk.runtimes.contract.errors import DataError


@pytest.fixture
def files(tmp_path: Path) -> MediaFiles:
    for name in ("a.mp4", "in/b.mkv"):
        touch(tmp_path / name)
    return MediaFiles(tmp_path, ("", "in"))


def row(name: str, *labels: str, split: str = "train") -> Row:
    return Row(f"line {name} {labels}", name, {"action": labels}, split)  # type: ignore[arg-type]


def test_rows_that_say_nothing_new_are_counted_and_others_are_put_together(files: MediaFiles) -> None:
    rows = [
        row("a.mp4", "run"),
        row("a.mp4", "run"),
        row("a.mp4", "fall"),
        row("b.avi", "run"),
        row("in/b.mkv", "run"),
        row("gone.mp4", "run"),
        row("gone.mp4", "run"),
    ]
    found = samples_from_rows(rows, files, multi_label=None)
    assert {sample.name: sample.labels["action"] for sample in found.samples} == {
        "a.mp4": ("fall", "run"),
        "in/b.mkv": ("run",),
    }
    assert found.absent == ("gone.mp4",) and found.root == files.root
    assert found.notes == (
        "action is multi-label: 1 of 2 samples have several labels, or none",
        "repeated rows left out: 3",
    )


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (row("a.mp4", "fall"), "listed twice with different labels"),
        (row("a.mp4", "run", split="test"), "with different splits"),
    ],
)
def test_a_file_with_two_labels_or_in_two_splits_is_one_line(files: MediaFiles, second: Row, said: str) -> None:
    with pytest.raises(DataError, match=said):
        samples_from_rows([row("a.mp4", "run"), second], files)


@pytest.mark.parametrize(
    ("parts", "count"),
    [
        ([], 0),
        ([("a", None), ("a", Interval(0, 1))], 0),
        ([("a", Interval(0, 1)), ("a", Interval(1, 2))], 0),
        ([("a", Interval(0, 9)), ("a", Interval(1, 2)), ("a", Interval(3, 4)), ("a", Interval(9, 10))], 3),
        ([("a", Interval(0, 9)), ("b", Interval(1, 2))], 0),
        ([("a", Interval(0, 9)), ("a", Interval(1, 2, "frame"))], 0),
    ],
)
def test_parts_that_overlap_are_counted_by_file(parts: list[tuple[str, Interval | None]], count: int) -> None:
    assert count_overlapping(parts) == count_overlapping(parts[::-1]) == count


def test_files_are_looked_for_in_the_folder_that_is_named_and_then_in_the_data_set(tmp_path: Path) -> None:
    for name in ("set/videos/a.mp4", "clips/videos/b.mp4", "clips/a.mp4"):
        touch(tmp_path / name)
    homes = Homes.of(tmp_path / "set", tmp_path / "clips")
    assert homes.places(["", "videos"]) == ("clips", "clips/videos", "set", "set/videos")
    assert [homes.files(["", "videos"]).find(name) for name in ("a.mp4", "b.mp4", "c.mp4")] == [
        "clips/a.mp4",
        "clips/videos/b.mp4",
        None,
    ]
    assert (
        Homes.of(tmp_path / "set", tmp_path / "set")
        == Homes.of(tmp_path / "set", None)
        == Homes(tmp_path / "set", ("",))
    )
