"""Checks of bundles that this user verified here: whether they answered as expected, and what has changed since."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from vidrisk.doctor.check import Check
from vidrisk.doctor.facts import Facts

SECTION = "bundles"
MOST_BUNDLES = 5


def verification_checks(facts: Facts) -> Iterator[Check]:
    probe = facts.probes.get("verified")
    if probe is None or probe.problem:  # of numpy or pydantic, which have lines of their own
        return
    by_bundle: dict[str, list[dict[str, Any]]] = {}
    for result in probe.told["results"]:
        by_bundle.setdefault(result["digest"], []).append(result)
    names: set[str] = set()
    for results in islice(by_bundle.values(), MOST_BUNDLES):
        name = Path(results[0]["folder"]).name
        yield _bundle(name if name not in names else f"{name} {results[0]['digest'][:8]}", results)
        names.add(name)


def _bundle(name: str, results: Sequence[dict[str, Any]]) -> Check:
    """Return a line for all runtimes and variants of one bundle, the newest first."""
    command = f"vidrisk verify {shlex.quote(results[0]['folder'])}"
    other = [result for result in results if result["state"] != "same"]
    wrong = [result for result in other if not result["changed"]]
    if wrong:
        return Check(
            SECTION,
            name,
            "broken",
            f"{_names_of(wrong)} did not answer as at export, on {wrong[0]['when']}: {wrong[0]['said']}",
            command,
        )
    changed = {what: change for result in results for what, change in result["changed"].items()}
    told, how = (other, "did not answer") if other else (results, "answered")
    when = f"{_names_of(told)} {how} as at export, on {told[0]['when']}"
    if changed:
        said = ", ".join(
            f"{what} {before or 'none'} → {now or 'none'}" for what, (before, now) in sorted(changed.items())
        )
        return Check(SECTION, name, "warning", f"{when}; changed since: {said}", command)
    return Check(SECTION, name, "ok", when)


def _names_of(results: Sequence[dict[str, Any]]) -> str:
    return ", ".join(sorted(f"{result['runtime']} {result['variant']}" for result in results))
