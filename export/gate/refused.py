"""The page on a refused export, written beside the path of the bundle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vidrisk.export.gate.report import GateReport
from vidrisk.runtimes.contract.errors import GateRefused

log = logging.getLogger(__name__)


@contextmanager
def page_of_refusal(out: Path, render: Callable[[GateRefused], tuple[str, GateReport] | None]) -> Iterator[None]:
    """Write ``<out>.refused.html`` if the block is refused, and name it in the error; remove that of an earlier try.

    Args:
        out: the bundle.
        render: returns the page, and the report for the error; None if there is no measurement to show.

    Raises:
        GateRefused: raised by the block, whether or not the page can be written.
    """
    page = out.with_name(f"{out.name}.refused.html")
    page.unlink(missing_ok=True)
    try:
        yield
    except GateRefused as refusal:
        rendered = render(refusal)
        if rendered is None:
            raise
        text, report = rendered
        where = ""
        try:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(text, encoding="utf-8")
            where = f" (see {page.name})"
        except OSError as error:
            log.warning("%s cannot be written: %s", page, error)
        raise GateRefused(f"{refusal.what}{where}", fix=refusal.fix, report=report) from refusal
