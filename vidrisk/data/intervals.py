"""Finds and reads the columns of a manifest that restrict a row to a part of its file.

A column is recognized by the words in its name: ``start``, ``start_s``, ``start_time``, ``t_start``, ``segmentStart``,
``start (ms)``, ``start_frame``, 开始时间, 起始帧 … and the same with ``end``. Without a unit the values are seconds, as
numbers or as ``hh:mm:ss.f``. Frames count from 0 and are converted to seconds by a column ``fps``, or by the file's own
timestamps. A part is half-open: its end, and the frame ``end_frame``, are excluded. A column ``segment`` may contain
both, ``[2.5, 4]``.

Columns of numbers that may have this meaning under other names (``from`` and ``to``, 起点 and 终点) are not read; a
warning names them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vidrisk.data.text import trim_text
from vidrisk.frames import Interval
from vidrisk.runtimes.contract.errors import DataError

log = logging.getLogger(__name__)

Side = Literal["start", "end"]
Unit = Literal["s", "ms", "frame"]
START_S, END_S, START_FRAME, END_FRAME = "start_s", "end_s", "start_frame", "end_frame"  # used by ``write_table``
RATE = ("fps", "frame_rate", "framerate", "rate", "帧率")
SPAN_OF_TIME = ("time_range", "time_span", "timestamps", "时间段", "起止时间", "时间范围", "时间区间")
SPAN = ("segment", "interval", "temporal_coordinates", "区间", *SPAN_OF_TIME)
MAX_RATE = 100_000

_SIDES: dict[str, Side] = {
    "start": "start",
    "starts": "start",
    "begin": "start",
    "onset": "start",
    "end": "end",
    "ends": "end",
    "stop": "end",
    "finish": "end",
}
_WORDS_OF_UNITS: dict[Unit, str] = {
    "s": "time times timestamp ts t s sec secs second seconds pos position hh mm ss",
    "ms": "ms msec millis millisecond milliseconds",
    "frame": "frame frames idx index",
}
_UNITS = {word: unit for unit, words in _WORDS_OF_UNITS.items() for word in words.split()}
_FILLERS = {"clip", "video", "segment", "action", "event", "temporal", "interval", "label", "annotation"}
# Words that may stand for a start or an end, or for something else altogether.
_MAY_BE: dict[Side, frozenset[str]] = {
    "start": frozenset(("from", "first", "in", "t0", "tmin", "beginning", "起点", "入点", "起", "始")),
    "end": frozenset(("to", "last", "out", "t1", "tmax", "ending", "offset", "终点", "出点", "终", "止")),
}
_CHINESE = re.compile(
    r"(?:片段|动作|视频)?(?:(?P<start>开始|起始)|(?P<end>结束|终止|截止))(?:时间点?|时刻)?"
    r"[\s(（_/]*(?P<unit>s|秒数?|ms|毫秒|帧[号数]?|时[:：]分[:：]秒)?[)）]*"
)
_CLOCK = r"(?:\d{1,6}:)?\d{1,6}:\d{1,6}(?:\.\d*)?"
_TIME = rf"{_CLOCK}|\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+"
_SECONDS = re.compile(rf"({_TIME})\s*(?:s|sec|秒)?", re.IGNORECASE)
_PAIR = re.compile(
    rf"[\[(]\s*({_TIME})\s*[,;]\s*({_TIME})\s*[\])]|"
    rf"({_TIME})\s*[s秒]?\s*[-~–—至到]\s*({_TIME})\s*[s秒]?",
    re.IGNORECASE,
)
_LIKE_A_PAIR = re.compile(r"[\[(]\s*[\[(]?\s*-?[\d.]|\d+:\d+\S*\s*[-~–—至]")


@dataclass(frozen=True)
class IntervalColumns:
    """Columns of a manifest with the part of a file; ``start`` and ``end`` are the same column if its cells have both.

    Attributes:
        start: column with the start.
        end: column with the end.
        unit: unit of the numbers.
        rate: the column with frames per second; None for the file's own timestamps.
    """

    start: str
    end: str
    unit: Unit = "s"
    rate: str | None = None

    def interval_of(self, cells: Mapping[str, str]) -> Interval | None:
        """Return the interval of a row, or None if its cells are empty.

        Raises:
            DataError, SpecError: only one end, or an invalid time, rate or interval.
        """
        texts = (
            self._pair_from_cell(cells[self.start])
            if self.start == self.end
            else (trim_text(cells[self.start]), trim_text(cells[self.end]))
        )
        if not any(texts):
            return None
        for text, column, other in ((texts[0], self.start, self.end), (texts[1], self.end, self.start)):
            if not text:
                raise DataError(
                    f"{column!r} is empty and {other!r} is not", fix="fill both, or neither for the whole file"
                )
        if self.unit == "frame":
            start, end = (_frame(text, column) for text, column in zip(texts, (self.start, self.end), strict=True))
            if self.rate is None:
                return Interval(start, end, "frame")
            per_second = _rate(cells[self.rate], self.rate)
            Interval(start, end, "frame")  # check it in frames first: an error then shows the values as written
            return Interval(start / per_second, end / per_second)
        start_s, end_s = (_seconds(text, column) for text, column in zip(texts, (self.start, self.end), strict=True))
        return Interval(start_s / 1000, end_s / 1000) if self.unit == "ms" else Interval(start_s, end_s)

    def _pair_from_cell(self, cell: str) -> tuple[str, str]:
        if not trim_text(cell):
            return "", ""
        found = _PAIR.fullmatch(trim_text(cell))
        if not found:
            raise DataError(
                f"{self.start} {cell[:40]!r}",
                allowed="one start and one end in seconds, such as [2.5, 4]",
                fix="write one row for each interval",
            )
        return (found[1] or found[3]), (found[2] or found[4])


def interval_columns(header: Sequence[str], rows: Sequence[Mapping[str, str]], source: str) -> IntervalColumns | None:
    """Find the columns; seconds take precedence over milliseconds, and these over frames.

    Raises:
        DataError: a column for one end only.
    """
    found: dict[tuple[Side, Unit], str] = {}
    for column in sorted(header, key=lambda column: column not in (START_S, END_S, START_FRAME, END_FRAME)):
        if (meaning := _meaning(column)) is not None:
            found.setdefault(meaning, column)
    for unit in _WORDS_OF_UNITS:
        start, end = found.get(("start", unit)), found.get(("end", unit))
        if start and end:
            rate = next((column for name in RATE for column in header if _plain(column) == name), None)
            if (
                unit == "s"
                and rate
                and {*_words(start), *_words(end)} <= set(_SIDES)
                and _are_whole(rows, (start, end))
            ):
                log.warning(
                    "%s: %r and %r are read as seconds; name them %s and %s if they are frames",
                    source,
                    start,
                    end,
                    START_FRAME,
                    END_FRAME,
                )
            return IntervalColumns(start, end, unit, rate if unit == "frame" else None)
    if found:
        (side, _), column = next(iter(found.items()))
        other = "end" if side == "start" else "start"
        raise DataError(
            f"{source} has the column {column!r} for the {side} of an interval, but none for its {other}",
            allowed=f"{START_S} and {END_S}, or {START_FRAME} and {END_FRAME}",
            fix=f"add the other one, or rename {column!r} if it is something else",
        )
    for column in header:
        if _plain(column) in SPAN and any(_looks_like_a_pair(trim_text(row[column]), column) for row in rows):
            return IntervalColumns(column, column)
    _say_what_is_not_read(header, rows, source)
    return None


def _looks_like_a_pair(cell: str, column: str) -> bool:
    """Return whether a cell may contain two times.

    ``3-5`` does if the column is named after time; elsewhere it may be any name.
    """
    return bool(_LIKE_A_PAIR.match(cell) or (_plain(column) in SPAN_OF_TIME and _PAIR.fullmatch(cell)))


def _are_whole(rows: Sequence[Mapping[str, str]], columns: Iterable[str]) -> bool:
    cells = [trim_text(row[column]) for row in rows for column in columns]
    return any(cells) and all(re.fullmatch(r"\d*", cell) for cell in cells)


def _say_what_is_not_read(header: Sequence[str], rows: Sequence[Mapping[str, str]], source: str) -> None:
    """Warn of two columns that may be the ends of intervals, judging by their names and their cells."""
    times = [column for column in header if _are_times([trim_text(row[column]) for row in rows])]
    start = next((column for column in times if _may_be("start", column)), None)
    end = next((column for column in times if _may_be("end", column) and column != start), None)
    if start and end:
        log.warning(
            "%s: %r and %r are not read, each row is a whole file; "
            "name them %s and %s, or %s and %s, if each row is a part",
            source,
            start,
            end,
            START_S,
            END_S,
            START_FRAME,
            END_FRAME,
        )


def _may_be(side: Side, column: str) -> bool:
    return any(word in _MAY_BE[side] or _SIDES.get(word) == side for word in _words(column))


def _are_times(cells: Sequence[str]) -> bool:
    return any(cells) and all(not cell or _SECONDS.fullmatch(cell) for cell in cells)


def _plain(column: str) -> str:
    return column.strip().casefold().removeprefix("data_")


def _words(column: str) -> list[str]:
    return re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column.strip()).casefold().removeprefix("data_"))


def _meaning(column: str) -> tuple[Side, Unit] | None:
    """Return which end a column names, and in which unit, or None if it has another meaning."""
    if match := _CHINESE.fullmatch(_plain(column)):
        unit = match["unit"] or "s"
        return ("start" if match["start"] else "end"), (
            "frame" if unit[0] == "帧" else "ms" if unit in ("ms", "毫秒") else "s"
        )
    words = _words(column)
    sides = [_SIDES[word] for word in words if word in _SIDES]
    units = [_UNITS[word] for word in words if word in _UNITS]
    if len(sides) != 1 or not all(word in _SIDES or word in _UNITS or word in _FILLERS for word in words):
        return None
    return sides[0], "frame" if "frame" in units else "ms" if "ms" in units else "s"


def _seconds(text: str, column: str) -> float:
    """Parse seconds from ``1.5``, ``1.5 s``, ``mm:ss`` or ``hh:mm:ss.f``."""
    if text.startswith("-"):
        raise DataError(f"{column} {text[:40]!r} is negative", allowed="0 or more")
    found = _SECONDS.fullmatch(text)
    if not found:
        raise DataError(
            f"{column} {text[:40]!r} is not a time",
            allowed="seconds, such as 1.5, or hh:mm:ss",
            fix="correct it, or rename the column if it is something else",
        )
    *above, seconds = found[1].split(":")
    if any(float(part) >= 60 for part in (*above[1:], seconds)) and above:
        raise DataError(f"{column} {text[:40]!r} has more than 59 minutes or seconds", allowed="hh:mm:ss")
    return float(seconds) + sum(int(part) * factor for part, factor in zip(reversed(above), (60, 3600), strict=False))


def _frame(text: str, column: str) -> int:
    if not re.fullmatch(r"\d{1,15}(\.0*)?", text):
        raise DataError(f"{column} {text[:40]!r} is not a frame number", allowed="whole numbers from 0")
    return int(text.partition(".")[0])


def _rate(cell: str, column: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d*)?)(?:/(\d+(?:\.\d*)?))?", trim_text(cell))
    rate = float(found[1]) / (float(found[2] or 1) or 1) if found else 0
    if not 0 < rate <= MAX_RATE:
        raise DataError(
            f"{column} {cell[:40]!r} is not a frame rate",
            allowed=f"frames per second up to {MAX_RATE}",
            fix="fill it in every row, or remove the column to count by the files' own timestamps",
        )
    return rate


def interval_cells(interval: Interval | None, unit: str) -> dict[str, str]:
    """Return the cells of the columns in which ``write_table`` stores an interval."""
    names = (START_S, END_S) if unit == "s" else (START_FRAME, END_FRAME)
    values = ("", "") if interval is None else tuple(_number(value) for value in (interval.start, interval.end))
    return dict(zip(names, values, strict=True))


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
