"""One line of what the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "optional", "warning", "broken", "missing"]


@dataclass(frozen=True)
class Check:
    """What one thing on this machine is like.

    Attributes:
        section: the heading that it stands under.
        name: of the thing; no two checks share one.
        state: ``ok``; ``optional``, it is not there or could be faster, and nobody has to miss that; ``warning``, it
            works and will be slow or in the way; ``broken``, it is there and does not work; ``missing``, ``infer``
            cannot do without it.
        found: one line.
        fix: the command that mends it; never empty where ``is_red``.
    """

    section: str
    name: str
    state: State
    found: str
    fix: str = ""

    @property
    def is_red(self) -> bool:
        return self.state in ("broken", "missing")
