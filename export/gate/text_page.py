"""The gate's report on a language model as one HTML file for the decision maker, without scripts or network access."""

from __future__ import annotations

from collections.abc import Sequence

from vidrisk.export.gate.page import gate_environment
from vidrisk.export.gate.report import GateReport
from vidrisk.export.gate.text_report import ChangedAnswer, TextHop

TEMPLATE = "text_gate.html.j2"
MOST_EXAMPLES = 60


def text_gate_page(report: GateReport, title: str) -> str:
    """Render the page.

    Args:
        report: the gate's findings.
        title: name of the bundle.
    """
    with_fields = [hop for hop in report.text_hops if hop.fields is not None]
    examples = _examples(with_fields)
    page = (
        gate_environment()
        .get_template(TEMPLATE)
        .render(
            report=report,
            title=title,
            headline=_headline(report.text_hops),
            with_fields=with_fields,
            names=list(dict.fromkeys(name for hop in with_fields if hop.fields for name in hop.fields.agreement)),
            texts=list(dict.fromkeys(name for hop in with_fields if hop.fields for name in hop.fields.length_drift)),
            examples=examples[:MOST_EXAMPLES],
            more=max(0, _count_changed(with_fields) - MOST_EXAMPLES),
            several=False,
            refusals=[verdict for verdict in report.verdicts if not verdict.shipped],
            waived=[verdict for verdict in report.verdicts if verdict.shipped and verdict.reason],
        )
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # sample names may contain characters that cannot be encoded


def _headline(hops: Sequence[TextHop]) -> TextHop | None:
    """Return the decisive hop: the refused one, else the last judged one."""
    return next((hop for hop in hops if not hop.passed), hops[-1] if hops else None)


def _examples(hops: Sequence[TextHop]) -> list[tuple[TextHop, ChangedAnswer]]:
    """Return changed answers with their hops; those that became wrong first."""
    found = [(hop, change) for hop in hops if hop.fields is not None for change in hop.fields.examples]
    return sorted(found, key=lambda item: _rank(item[0], item[1]))


def _rank(hop: TextHop, change: ChangedAnswer) -> int:
    level = hop.fields.level if hop.fields is not None else ""
    true, before, after = (values.get(level, "") for values in (change.truth, change.before, change.after))
    if not change.after:
        return 0
    return 1 if true and before == true != after else 2 if level in change.fields else 3


def _count_changed(hops: Sequence[TextHop]) -> int:
    return sum(hop.fields.changed for hop in hops if hop.fields is not None)
