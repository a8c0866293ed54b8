"""What commands share: a progress bar on stderr (none where stderr is no terminal)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar that is told (what, done, total); a new ``what`` starts it anew."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None)
        current = ""

        def advance(what: str, done: int, total: int) -> None:
            nonlocal current
            if what != current:
                bar.reset(task, description=what, total=total)
                current = what
            bar.update(task, completed=done, total=total)

        yield advance
