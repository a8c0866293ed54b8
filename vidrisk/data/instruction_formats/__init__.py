"""Instruction data in layouts of their own, one file each: a module with a ``FORMAT`` is one. Whoever adds a file adds a format."""

from __future__ import annotations

from vidrisk.data.instruction_formats.reader import First, InstructionFormat
from vidrisk.files.members import members_of_package

__all__ = ["FORMATS", "First", "InstructionFormat", "format_from_first"]


FORMATS: dict[str, InstructionFormat] = {
    found.name: found for found in members_of_package(__name__, __path__, "FORMAT")
}  # by name


def format_from_first(first: First) -> InstructionFormat | None:
    """Find the format of a file by what is told of it, else by its beginning; None where it is of none. No file is of two."""
    if first.told in FORMATS:
        return FORMATS[first.told]
    return next((found for found in FORMATS.values() if found.owns(first)), None)
