"""Checks, before any work, of the path that a command is to write."""

from __future__ import annotations

import os
from pathlib import Path

from vidrisk.runtimes.contract.errors import SettingsError


def refuse_below_file(path: Path) -> None:
    """Refuse a path that leads through a file, where neither a folder nor a file can be made.

    Raises:
        SettingsError: it does.
    """
    above = next((folder for folder in path.parents if os.path.lexists(folder)), None)
    if above is not None and above.is_file():
        raise SettingsError(f"{above} is a file, so {path} cannot be written", fix="choose another output")
