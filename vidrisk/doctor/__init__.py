"""Checks of this machine: what works, what does not, and the command that fixes it.

Needs only the standard library, and never crashes: everything that may crash or hang is loaded in a process of its own.
Read in this order:

    check.py     one line of the result
    asking.py    files, commands and probes, with time limits
    probes.py    facts that need libraries to be loaded, in a process of its own
    jetson.py    facts from a Jetson's files
    facts.py     all facts together
    machine.py, gpu.py, board.py, runtimes.py, verified.py, packages.py    facts → checks
    versions.py, trouble.py, support.py, known.py    known problems (wrong, crashing or slow): known_trouble.json →
        checks
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from vidrisk.doctor.board import board_checks
from vidrisk.doctor.check import Check
from vidrisk.doctor.facts import Facts, gather_facts
from vidrisk.doctor.gpu import gpu_checks
from vidrisk.doctor.known import trouble_checks
from vidrisk.doctor.machine import machine_checks
from vidrisk.doctor.packages import package_checks
from vidrisk.doctor.runtimes import runtime_checks
from vidrisk.doctor.verified import verification_checks

log = logging.getLogger(__name__)

SECTIONS: tuple[Callable[[Facts], Iterator[Check]], ...] = (
    machine_checks,
    board_checks,
    gpu_checks,
    runtime_checks,
    verification_checks,
    package_checks,
    trouble_checks,
)


def examine(root: Path = Path("/")) -> list[Check]:
    """Return all checks of this machine, in order of importance.

    Args:
        root: of the machine's file system.
    """
    return checks_from_facts(gather_facts(root))


def checks_from_facts(facts: Facts) -> list[Check]:
    """Return the checks for facts; a section that fails unexpectedly does not affect the others."""
    checks: list[Check] = []
    for section in SECTIONS:
        try:
            checks.extend(section(facts))
        except Exception as error:
            log.debug("%s failed", section.__name__, exc_info=True)
            stopped = f"stopped: {type(error).__name__}: {error}"
            checks.append(
                Check("machine", section.__name__.replace("_", " "), "warning", stopped, "vidrisk -vv doctor")
            )
    return checks


__all__ = ["Check", "Facts", "checks_from_facts", "examine"]
