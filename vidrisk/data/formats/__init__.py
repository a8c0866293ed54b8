"""Formats of data sets, each a file or a folder: every module of this package that defines a ``FORMAT`` adds one."""

from __future__ import annotations

from pathlib import Path

from vidrisk.data.formats.format import Format
from vidrisk.files.members import members_of_package
from vidrisk.frames.media import name_of
from vidrisk.runtimes.contract.errors import DataError, SettingsError

__all__ = ["FORMATS", "Format", "find_format", "format_of"]


FORMATS: dict[str, Format] = {
    found.name: found for found in members_of_package(__name__, __path__, "FORMAT")
}  # by name


def format_of(source: Path) -> Format | None:
    """Find the format that recognizes a folder or file as its own, or return None.

    Raises:
        DataError: several formats do.
    """
    found = [known for known in FORMATS.values() if known.owns(source)]
    if len(found) > 1:
        raise DataError(
            f"{name_of(source.name)} may be {' or '.join(known.title for known in found)}",
            fix=f"vidrisk data import --format {found[0].name}",
        )
    return found[0] if found else None


def find_format(name: str) -> Format:
    """Look up a format by its name.

    Raises:
        SettingsError: no such format.
    """
    if name not in FORMATS:
        raise SettingsError(f"format {name!r}", allowed=", ".join(FORMATS))
    return FORMATS[name]
