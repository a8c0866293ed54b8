"""Formats of instruction data: every module of this package that defines a ``FORMAT`` adds one."""

from __future__ import annotations

from vidrisk.data.instruction_formats.reader import First, InstructionFormat
from vidrisk.files.members import members_of_package

__all__ = ["FORMATS", "First", "InstructionFormat", "format_from_first"]


FORMATS: dict[str, InstructionFormat] = {
    found.name: found for found in members_of_package(__name__, __path__, "FORMAT")
}  # by name


def format_from_first(first: First) -> InstructionFormat | None:
    """Find the format of a file by a list of data sets that names it, else by the file's beginning, or return None.

    No file matches two formats.
    """
    if first.told in FORMATS:
        return FORMATS[first.told]
    return next((found for found in FORMATS.values() if found.owns(first)), None)
