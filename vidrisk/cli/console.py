"""What commands share: a progress bar on stderr (none where stderr is no terminal)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

LINE_EVERY_S = 5.0


class Advance(Protocol):
    """Told (what, done, total) and perhaps a note; a new ``what`` starts the bar anew."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None: ...


@contextmanager
def progress_bar(*, lines: bool = False) -> Iterator[Advance]:
    """A bar; with ``lines``, a line of text now and then where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
               TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None, note="")
        current, said_s = "", time.monotonic()

        def advance(what: str, done: int, total: int, note: str = "") -> None:
            nonlocal current, said_s
            if what != current:
                bar.reset(task, description=what, total=total)
                current = what
            bar.update(task, completed=done, total=total, note=note)
            if lines and not console.is_terminal and time.monotonic() - said_s > LINE_EVERY_S:
                said_s = time.monotonic()
                console.print(f"{what} {done}/{total} {note}", soft_wrap=True, highlight=False)

        yield advance
