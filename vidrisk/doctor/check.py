"""One line of the doctor's result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "optional", "warning", "broken", "missing"]


@dataclass(frozen=True)
class Check:
    """The state of one thing on this machine.

    Attributes:
        section: heading of the line.
        name: of the thing; unique among the checks.
        state: ``ok``; ``optional``, it is absent or could be faster, and is not required; ``warning``, it works, but
            slowly or with side effects; ``broken``, it is present but does not work; ``missing``, ``infer`` cannot run
            without it.
        found: one line.
        fix: command that fixes it; never empty if ``is_red``.
    """

    section: str
    name: str
    state: State
    found: str
    fix: str = ""

    @property
    def is_red(self) -> bool:
        return self.state in ("broken", "missing")
