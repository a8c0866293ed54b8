"""``vidrisk doctor``: what works on this machine, and the exact fix for what does not."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a list.")] = False) -> None:
    """Check what works on this machine; exit code 1 if something is broken, or `infer` lacks a requirement."""
    from vidrisk.cli.doctor_view import print_checks
    from vidrisk.doctor import examine
    from vidrisk.runtimes.contract.errors import EXIT_ERROR

    checks = examine()
    print_checks(checks, as_json=json)
    if any(check.is_red for check in checks):
        raise typer.Exit(EXIT_ERROR)
