"""The list that ``vidrisk doctor`` prints: a line per check, and under it the command that fixes a problem."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby

from rich.console import Console

from vidrisk.cli.console import say_json, say_styled
from vidrisk.doctor import Check

MARKS = {"ok": "✓", "optional": "–", "warning": "!", "broken": "✗", "missing": "✗"}
PLAIN_MARKS = {"ok": "+", "optional": "-", "warning": "!", "broken": "x", "missing": "x"}
STYLES = {"ok": "green", "optional": "dim", "warning": "yellow", "broken": "bold red", "missing": "bold red"}
MIN_WIDTH, MAX_NAME = 40, 18


def print_checks(checks: Sequence[Check], *, as_json: bool) -> None:
    if as_json:
        say_json(json.dumps([asdict(check) for check in checks]))
        return
    console = Console()
    marks = MARKS if _can_print(console, "".join(MARKS.values())) else PLAIN_MARKS
    name_width = min(MAX_NAME, max(len(check.name) for check in checks))
    for section, group in groupby(checks, key=lambda check: check.section):
        say_styled(section, "bold")
        for check in group:
            _print_check(console.width, check, marks[check.state], name_width)
    red = sum(check.is_red for check in checks)
    say_styled(f"{red} to fix" if red else "nothing to fix", "bold red" if red else "bold green")


def _print_check(console_width: int, check: Check, mark: str, name_width: int) -> None:
    """Print ``✓ name  found``, wrapped and indented; the fix is never wrapped, so that it can be copied.

    An optional fix is on the same line if there is room.
    """
    style, fix = STYLES[check.state], check.fix
    indent = " " * (name_width + 4)
    width = max(MIN_WIDTH, console_width) - len(indent)
    lines = textwrap.wrap(check.found, width) or [""]
    if check.state == "optional" and fix and len(lines[-1]) + len(fix) + 2 <= width:
        lines[-1], fix = f"{lines[-1]}: {fix}", ""
    first = f"{check.name:{name_width}}  {lines[0]}"
    if len(check.name) > name_width:
        first, lines = check.name, ["", *lines]
    say_styled(f"{mark} {first}", style if check.state != "ok" else "", mark_style=style)
    for line in lines[1:]:
        say_styled(f"{indent}{line}", style if check.state != "ok" else "")
    if fix:
        say_styled(f"{indent}fix: {fix}", "" if check.state == "optional" else "bold")


def _can_print(console: Console, text: str) -> bool:
    try:
        text.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
