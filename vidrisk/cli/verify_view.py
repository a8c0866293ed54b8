"""The table that ``vidrisk verify`` prints."""

from __future__ import annotations

from vidrisk.cli.console import say, say_json, say_table
from vidrisk.runtimes.layers import Layers
from vidrisk.verify import Row, Verification

STYLES = {"same": "green", "differs": "red", "does not run": "yellow"}


def print_verification(found: Verification, *, as_json: bool) -> None:
    if as_json:
        say_json(found.to_json())
        return
    if not found.rows:
        say(f"{found.bundle} cannot be verified: {found.without}")
        return
    states = [found.state_of(row) for row in found.rows]
    say_table(
        ("", "labels", "largest\nΔp", "of", "mean\nΔp", "layers really\nrun in", "answers"),
        ((str(row), *_cells(row), state) for row, state in zip(found.rows, states, strict=True)),
        last_styles=[STYLES[state] for state in states],
    )
    say(f"{found.samples} golden samples; expected is what {found.reference} answered at export; of: tolerated")
    for row in found.rows:
        if row.problem:
            say(f"{row} does not run here: {row.problem}")
        elif row.note:
            say(f"{row}: {row.note}")
    for fault in found.faults:
        say(f"{fault.name}: {fault.said}")


def _cells(row: Row) -> tuple[str, ...]:
    if row.problem:
        return ("–",) * 5
    layers = str(Layers(row.layers, row.unproved))
    return f"{row.agreement:.0%}", f"{row.largest:.4f}", f"{row.tolerance:.3f}", f"{row.mean:.4f}", layers
