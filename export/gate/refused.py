"""What the gate measured of an export that it refused, as a page beside the bundle that is not written."""

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
    """Write ``<out>.refused.html`` where the block is refused, and name it in the error; one of an earlier try is gone.

    Args:
        out: the bundle.
        render: gives the page, and the report that the error is to hold; None where nothing was measured that a page
            could show.

    Raises:
        GateRefused: as the block raises it, whether the page can be written or not.
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
