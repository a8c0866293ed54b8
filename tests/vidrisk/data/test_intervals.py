"""Tests of the columns that give a part of a file, under the usual names of the field."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.data import Sample, Table, load_table, split_table, write_table
from vidrisk.data.intervals import interval_columns
from vidrisk.frames import Interval
from vidrisk.runtimes.contract.errors import DataError


@pytest.fixture
def root(tmp_path: Path, clip: Callable[..., Path]) -> Path:
    for name in "abc":
        clip(tmp_path / f"{name}.mp4")
    return tmp_path


def table_of(root: Path, text: str, name: str = "m.csv") -> Table:
    (root / name).write_text(text, encoding="utf-8")
    return load_table(root / name, "action")


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("start", "end"),
        ("start_s", "end_s"),
        ("start_time", "end_time"),
        ("t_start", "t_end"),
        ("time_start", "time_end"),
        ("Start (s)", "End (s)"),
        ("begin", "end"),
        ("startTime", "endTime"),
        ("segment_start", "segment_end"),
        ("start_timestamp", "stop_timestamp"),
        ("start_sec", "end_sec"),
        ("data_start", "data_end"),
        ("temporal_segment_start", "temporal_segment_end"),
        ("开始时间", "结束时间"),
        ("起始", "结束"),
        ("开始时间(秒)", "结束时间（秒）"),
        ("起始时刻", "终止时刻"),
        ("开始", "截止"),
    ],
)
def test_seconds_by_their_usual_names(root: Path, start: str, end: str) -> None:
    table = table_of(root, f"video,{start},{end},label,note\na.mp4,0,0.5,x,n\na.mp4,0.5,1,y,\n")
    assert [sample.interval for sample in table.samples] == [Interval(0, 0.5), Interval(0.5, 1)]
    assert [sample.title for sample in table.samples] == ["a.mp4 [0, 0.5) s", "a.mp4 [0.5, 1) s"]
    assert dict(table.samples[0].extra) == {"note": "n"}


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("start_frame", "end_frame"),
        ("起始帧", "结束帧"),
        ("frame_start", "frame_end"),
        ("startFrame", "endFrame"),
        ("开始帧号", "结束帧号"),
    ],
)
def test_frames_by_the_files_times_or_by_a_rate(root: Path, start: str, end: str) -> None:
    table = table_of(root, f"path,{start},{end},label\na.mp4,0,4,x\na.mp4,4.0,8.0,y\n")
    assert [sample.interval for sample in table.samples] == [Interval(0, 4, "frame"), Interval(4, 8, "frame")]
    for rate in ("fps", "帧率"):
        table = table_of(root, f"path,{start},{end},label,{rate}\na.mp4,0,4,x,8\na.mp4,4,8,y,16000/1000\n")
        assert [sample.interval for sample in table.samples] == [Interval(0, 0.5), Interval(0.25, 0.5)]


@pytest.mark.parametrize(
    ("cell", "seconds"),
    [
        ("90", 90),
        ("90.5", 90.5),
        ("1:30", 90),
        ("00:01:30", 90),
        ("00:01:30.25", 90.25),
        ("90 s", 90),
        ("90秒", 90),
        ("1.5e1", 15),
        ("100:00:00", 360_000),
    ],
)
def test_times(cell: str, seconds: float) -> None:
    columns = interval_columns(["start", "end"], [], "m.csv")
    assert columns and columns.interval_of({"start": "0", "end": cell}) == Interval(0, seconds)


def test_milliseconds() -> None:
    columns = interval_columns(["start_ms", "end_ms"], [], "m.csv")
    assert columns and columns.interval_of({"start_ms": "250", "end_ms": "1500"}) == Interval(0.25, 1.5)


@pytest.mark.parametrize("cell", ["[0, 0.5]", "(0, 0.5)", "[0; 0.5]", "0:00-0:00.5", "00:00:00~00:00:00.5"])
def test_both_ends_in_one_cell(root: Path, cell: str) -> None:
    table = table_of(root, f'path,segment,label\na.mp4,"{cell}",x\nb.mp4,"[0.5, 1]",y\n')
    assert [sample.interval for sample in table.samples] == [Interval(0, 0.5), Interval(0.5, 1)]


def test_lists_of_jsonl(root: Path) -> None:
    rows = [
        {"video": "a.mp4", "segment": [0, 0.5], "label": "x"},
        {"video": "b.mp4", "segment": [0.5, 1.0], "label": "y"},
    ]
    table = table_of(root, "\n".join(map(json.dumps, rows)), "m.jsonl")
    assert [sample.interval for sample in table.samples] == [Interval(0, 0.5), Interval(0.5, 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,start,label\na.mp4,0,x\n", "has the column 'start' for the start of an interval, but none for its end"),
        (
            "path,结束时间,label\na.mp4,0,x\n",
            "has the column '结束时间' for the end of an interval, but none for its start",
        ),
        ("path,start_s,end_frame,label\na.mp4,0,1,x\n", "'start_s' for the start of an interval, but none for its end"),
        ("path,start,end,label\na.mp4,0,1,x\nb.mp4,,1,y\n", "line 3: 'start' is empty and 'end' is not"),
        ("path,start,end,label\na.mp4,0,1,x\nb.mp4,0,NaN,y\n", "line 3: 'end' is empty and 'start' is not"),
        ("path,start,end,label\na.mp4,0,1,x\nb.mp4,-1,1,y\n", "line 3: start '-1' is negative"),
        ("path,start,end,label\na.mp4,0,1,x\nb.mp4,1,1,y\n", "line 3: the interval [1, 1) s is empty"),
        ("path,start,end,label\na.mp4,0,1,x\nb.mp4,2,1,y\n", "line 3: the interval [2, 1) s is reversed"),
        ("path,start,end,label\na.mp4,0,1,x\nb.mp4,soon,1,y\n", "line 3: start 'soon' is not a time"),
        ("path,start,end,label\na.mp4,0,inf,x\n", "line 2: end 'inf' is not a time"),
        (
            "path,start,end,label\na.mp4,2026-03-01 08:00:00,2026-03-01 09:00:00,x\n",
            "rename the column if it is something else",
        ),
        ("path,start,end,label\na.mp4,0,0:99,x\n", "more than 59 minutes or seconds"),
        ("path;start;end;label\na.mp4;0,5;1,5;x\n", "line 2: start '0,5' is not a time"),
        ("path,start_frame,end_frame,label\na.mp4,0,2.5,x\n", "line 2: end_frame '2.5' is not a frame number"),
        ("path,start_frame,end_frame,label,fps\na.mp4,0,2,x,0\n", "line 2: fps '0' is not a frame rate"),
        ("path,start_frame,end_frame,label,fps\na.mp4,0,2,x,\n", "line 2: fps '' is not a frame rate"),
        ('path,segment,label\na.mp4,"[0, 1]",x\nb.mp4,"[[0, 1], [2, 3]]",y\n', "line 3: segment '[[0, 1], [2, 3]]'"),
        ('path,segment,label\na.mp4,"[[0, 1], [2, 3]]",x\n', "write one row for each interval"),
        ("path,start,end,label\na.mp4,0,1,x\na.mp4,0,1,y\n", "names a.mp4 [0, 1) s twice with different labels"),
    ],
)
def test_what_cannot_be_read_is_an_error(root: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        table_of(root, text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_photos_have_no_interval(root: Path, photo: Callable[..., Path]) -> None:
    photo(root / "p.jpg")
    with pytest.raises(DataError, match=r"gives photos a time interval \(1\): p\.jpg \(line 3\)"):
        table_of(root, "path,start,end,label\na.mp4,0,1,x\np.jpg,0,1,y\n")


def test_rows_without_an_interval_are_whole_files(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="vidrisk"):
        table = table_of(root, "path,start,end,label\na.mp4,0,1,x\nb.mp4,,,y\n")
    assert [sample.interval for sample in table.samples] == [Interval(0, 1), None]
    assert "rows without start and end are whole files: 1 of 2" in caplog.text


@pytest.mark.parametrize(
    "header", ["segment", "start_date,end_date", "interval", "section,restart", "trend,friend", "append,starter"]
)
def test_other_columns_stay_extra_ones(root: Path, header: str) -> None:
    cells = ",".join("3-5" for _ in header.split(","))
    table = table_of(root, f"path,label,{header}\na.mp4,x,{cells}\nb.mp4,y,{cells}\n")
    assert [sample.interval for sample in table.samples] == [None, None]
    assert set(table.samples[0].extra) == set(header.split(","))


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from("xyz")), min_size=6, max_size=40),
    st.one_of(st.none(), st.lists(st.integers(0, 3), min_size=40, max_size=40)),
    st.integers(0, 3),
)
def test_parts_of_a_file_never_straddle_a_split(
    rows: list[tuple[int, str]], groups: list[int] | None, seed: int
) -> None:
    samples = tuple(
        Sample(
            Path(f"/d/{file}.mp4"),
            f"{file}.mp4",
            {"action": label},
            interval=Interval(number, number + 1),
            group=f"g{groups[number]}" if groups else None,
        )
        for number, (file, label) in enumerate(rows)
    )
    table = Table(Path("/d"), "action", samples)
    try:
        done = split_table(table, seed=seed)
    except DataError as error:
        assert "to split; allowed: 3 or more" in str(error)
        return
    for names in ([sample.name for sample in samples], [sample.group for sample in samples if sample.group]):
        for name in set(names):
            assert len({s.split for s in done.samples if name in (s.name, s.group)}) == 1
    shuffled = split_table(table.with_samples(reversed(samples)), seed=seed)
    assert {s.title: s.split for s in shuffled.samples} == {s.title: s.split for s in done.samples}


def test_one_file_alone_cannot_be_split() -> None:
    samples = tuple(
        Sample(Path("/d/a.mp4"), "a.mp4", {"action": "xy"[i % 2]}, interval=Interval(i, i + 1)) for i in range(9)
    )
    with pytest.raises(
        DataError, match="has 1 files to split; allowed: 3 or more; fix: add files, or give the rows a split"
    ):
        split_table(Table(Path("/d"), "action", samples))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("unit", ["s", "frame"])
def test_round_trip(root: Path, suffix: str, unit: str) -> None:
    third = Interval(1 / 3, 2 / 3 + 1e-9) if unit == "s" else Interval(3, 4, "frame")
    samples = [
        Sample(
            root / f"{name}.mp4",
            f"{name}.mp4",
            {"action": label},
            interval=interval,
            split="train",
            extra={"start_date": "x"},
        )
        for name, label, interval in (("a", "x", third), ("a", "y", replace(third, start=0)), ("b", "x", None))
    ]
    table = Table(root, "action", tuple(samples))
    write_table(table, root / f"m.{suffix}")
    assert load_table(root / f"m.{suffix}", "action") == table


def test_two_units_are_not_written(root: Path) -> None:
    samples = [
        Sample(root / "a.mp4", "a.mp4", {"action": label}, interval=interval)
        for label, interval in (("x", Interval(0, 1)), ("y", Interval(0, 1, "frame")))
    ]
    with pytest.raises(DataError, match="intervals in seconds and in frames"):
        write_table(Table(root, "action", tuple(samples)), root / "m.csv")


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("开始时间/s", "结束时间/s"),
        ("开始时间（时:分:秒）", "结束时间（时:分:秒）"),
        ("start (hh:mm:ss)", "end (hh:mm:ss)"),
        ("label_start_time", "label_end_time"),
        ("annotation start", "annotation end"),
    ],
)
def test_more_names_of_seconds(root: Path, start: str, end: str) -> None:
    table = table_of(root, f"path,{start},{end},label\na.mp4,0,0.5,x\na.mp4,0:00.5,0:01,y\n")
    assert [sample.interval for sample in table.samples] == [Interval(0, 0.5), Interval(0.5, 1)]


@pytest.mark.parametrize("column", ["起止时间", "时间段", "time_range"])
def test_two_numbers_in_a_column_of_time(root: Path, column: str) -> None:
    table = table_of(root, f"path,{column},label\na.mp4,0-0.5,x\nb.mp4,0.5s ~ 1s,y\n")
    assert [sample.interval for sample in table.samples] == [Interval(0, 0.5), Interval(0.5, 1)]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("from", "to"),
        ("first_frame", "last_frame"),
        ("起点", "终点"),
        ("in", "out"),
        ("tmin", "tmax"),
        ("start_us", "end_us"),
    ],
)
def test_columns_that_may_be_times_are_not_passed_over_in_silence(
    root: Path, caplog: pytest.LogCaptureFixture, start: str, end: str
) -> None:
    with caplog.at_level(logging.WARNING, logger="vidrisk"):
        table_of(root, f"path,{start},{end},label\na.mp4,0,1,x\nb.mp4,1.5,2,y\n")
    assert f"{start!r} and {end!r} are not read, each row is a whole file; name them start_s and end_s" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="vidrisk"):
        table_of(root, f"path,{start},{end},label\na.mp4,hall,yard,x\nb.mp4,yard,hall,y\n")
        table_of(root, f"path,{end},label\na.mp4,1,x\nb.mp4,2,y\n") if start != "start_us" else None
    assert not caplog.text


def test_whole_numbers_beside_a_rate_may_be_frames(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="vidrisk"):
        table_of(root, "path,start,end,fps,label\na.mp4,0,1,25,x\nb.mp4,0,1,25,y\n")
    assert (
        "'start' and 'end' are read as seconds; name them start_frame and end_frame if they are frames" in caplog.text
    )
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="vidrisk"):
        table_of(root, "path,start_s,end_s,fps,label\na.mp4,0,1,25,x\nb.mp4,0,1,25,y\n")
        table_of(root, "path,start,end,fps,label\na.mp4,0,0.5,25,x\nb.mp4,0,1,25,y\n")
    assert not caplog.text


@pytest.mark.parametrize(
    ("columns", "cells"),
    [
        ("start_frame,end_frame", f"0,{'9' * 400}"),
        ("start,end", f"0,{'9' * 400}:00:00"),
        ("start,end", f"0,{'9' * 5000}:00"),
    ],
)
def test_numbers_beyond_all_measure_are_an_error(root: Path, columns: str, cells: str) -> None:
    with pytest.raises(DataError, match=r"line 2: end\w* '9+' is not a |line 2: end '9+' is not a time"):
        table_of(root, f"path,{columns},label\na.mp4,{cells},x\nb.mp4,0,1,y\n")


def test_intervals_that_differ_have_names_that_differ() -> None:
    assert str(Interval(1_234_567, 1_234_568, "frame")) == "frames [1234567, 1234568)"
    assert str(Interval(7200.125, 7200.25)) == "[7200.125, 7200.25) s"
