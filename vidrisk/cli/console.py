"""Printing and progress bars of all commands; the bar is on stderr, and hidden if that is not a terminal.

Nothing else in the command line prints. Text from files (names, labels, messages of libraries) is untrusted: it is made
printable here, once, and never interpreted as rich's markup.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from vidrisk.runtimes.contract.printable import printable

if TYPE_CHECKING:
    from rich.progress import TaskID

LINE_EVERY_S = 60.0
ESTIMATE_S = 900.0  # period for the estimate of the time left: a step of a large model takes minutes
_NUMBERED = re.compile(r"(.*?)([1-9]\d*)/([1-9]\d*)")  # a step of a series, such as "epoch 2/10"
_NOT_ASCII = re.compile(r"[^\x00-\x7e]+")
_NOT_PLAIN = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")


def say(line: str) -> None:
    """Print one line on standard output."""
    print(printable(line))


def say_aside(line: str) -> None:
    """Print one line on standard error that is not part of the result."""
    print(printable(line), file=sys.stderr)


def say_error(line: str) -> None:
    """Print one error line on standard error."""
    print(f"error: {printable(line)}", file=sys.stderr)


def say_json(text: str) -> None:
    """Print JSON, with JSON escapes for characters that the console lacks or would interpret."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    escaped = _NOT_PLAIN if encoding == "utf8" else _NOT_ASCII
    print(escaped.sub(lambda found: _json_escapes(found[0]), text))


def _json_escapes(text: str) -> str:
    units = text.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place]:02x}{units[place + 1]:02x}" for place in range(0, len(units), 2))


def say_styled(line: str, style: str, *, mark_style: str = "") -> None:
    """Print one line in a rich style, its first character in another."""
    from rich.console import Console
    from rich.text import Text

    text = Text(printable(line), style)
    if mark_style:
        text.stylize(mark_style, 0, 1)
    Console(highlight=False).print(text, soft_wrap=True)


def say_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    right_from: int | None = None,
    last_styles: Sequence[str] = (),
) -> None:
    """Print a table.

    ``columns`` are headings, which are trusted text. Columns from ``right_from`` on are right-aligned. ``last_styles``
    are rich styles for the last cell of every row.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title)) if title else None)
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if right_from is None or place < right_from else "right")
    for number, row in enumerate(rows):
        cells = [Text(printable(cell)) for cell in row]
        if last_styles:
            cells[-1].stylize(last_styles[number])
        table.add_row(*cells)
    Console().print(table)


class PrintableFormatter(logging.Formatter):
    """Formatter that makes log records printable; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(
        self, info: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        return "\n".join(map(printable, super().formatException(info).splitlines()))


class Advance(Protocol):
    """Callback for progress: (what, done, total) and an optional note; a new ``what`` restarts the bar."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None: ...


@contextmanager
def progress_bar(*, lines: bool = False) -> Iterator[Advance]:
    """Show a bar with the time left; with ``lines``, print lines at intervals if stderr is not a terminal.

    Steps that are numbered, such as ``epoch 2/10``, count as one, and the time left is that of all of them, with what
    lies between them.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True, speed_estimate_period=ESTIMATE_S
    ) as bar:
        current, said_s = bar.add_task("", total=None, note=""), time.monotonic()
        tasks: dict[str, TaskID] = {}  # by name, without the number of a step

        def advance(what: str, done: int, total: int, note: str = "") -> None:
            nonlocal current, said_s
            what, note = printable(what), printable(note)
            number = _NUMBERED.fullmatch(what)
            step, steps = (int(number[2]), int(number[3])) if number else (1, 1)
            key = number[1] if number else what
            if key not in tasks:
                tasks[key] = bar.add_task(what, note="")
            task = tasks[key]
            shown = bar.tasks[bar.task_ids.index(task)]
            completed = (step - 1) * total + done
            if task != current:
                bar.update(current, visible=False)
                current = task
            if completed < shown.completed:  # it begins again
                bar.reset(task)
            bar.update(task, description=what, completed=completed, total=steps * total, note=note, visible=True)
            if lines and not console.is_terminal and time.monotonic() - said_s > LINE_EVERY_S:
                said_s = time.monotonic()
                left = shown.time_remaining
                told = f", {timedelta(seconds=round(left))} left" if left else ""
                print(f"{what} {done}/{total}{told} {note}", file=sys.stderr)

        yield advance
