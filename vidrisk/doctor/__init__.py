"""What works on this machine, what does not, and the command that mends it.

Needs nothing but the standard library, and never ends in a crash: whatever may crash or hang is loaded in a process of
its own. Read in this order:

    check.py     one line of what is found
    asking.py    files, commands and probes, with time limits
    probes.py    what is found out by loading libraries, in a process of its own
    jetson.py    what a Jetson's files say
    facts.py     all of that, gathered
    machine.py, gpu.py, board.py, runtimes.py, verified.py, packages.py    facts → checks
    versions.py, trouble.py, support.py, known.py    what is known to be wrong, crash or be slow: known_trouble.json →
    checks
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from vidrisk.doctor.board import board_checks
from vidrisk.doctor.check import Check
from vidrisk.doctor.facts import Facts, gathered
from vidrisk.doctor.gpu import gpu_checks
from vidrisk.doctor.known import trouble_checks
from vidrisk.doctor.machine import machine_checks
from vidrisk.doctor.packages import package_checks
from vidrisk.doctor.runtimes import runtime_checks
from vidrisk.doctor.verified import verified_checks

log = logging.getLogger(__name__)

SECTIONS: tuple[Callable[[Facts], Iterator[Check]], ...] = (
    machine_checks,
    board_checks,
    gpu_checks,
    runtime_checks,
    verified_checks,
    package_checks,
    trouble_checks,
)


def examine(root: Path = Path("/")) -> list[Check]:
    """All checks of this machine, in the order in which they matter. ``root`` is where its files are."""
    return checks_from_facts(gathered(root))


def checks_from_facts(facts: Facts) -> list[Check]:
    """Judge. A section that fails on something nobody has thought of costs no other one."""
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
