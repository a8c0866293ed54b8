"""``vidrisk doctor``: what works on this machine, and the exact fix for what does not."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Check what works on this machine; exit code 1 when something that `infer` needs does not."""
    from dataclasses import asdict
    from json import dumps

    from vidrisk.doctor import examine
    from vidrisk.runtimes.errors import EXIT_ERROR

    checks = examine()
    if json:
        typer.echo(dumps([asdict(check) for check in checks], ensure_ascii=False))
    else:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table("", "what", "found", "fix")
        for check in checks:
            table.add_row({"ok": "✓", "optional": "–", "missing": "✗"}[check.state], check.name, Text(check.found), Text(check.fix))
        Console().print(table)
    if any(check.state == "missing" for check in checks):
        raise typer.Exit(EXIT_ERROR)
