"""Contents of the wheels in a folder: exact versions with hashes for pip, and their licences."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Sequence
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

from vidrisk.runtimes.contract.bundle import sha256_of

MAX_LICENSE_CHARS = 100  # some packages put the whole text into the field
GPL_LIBRARIES = re.compile(r"(?:^|/)(lib(?:x264|x265|xvidcore|postproc))[-.]")
HEADER = """\
Licences of the Python packages in this folder, as stated in their own metadata. Each wheel has the full texts in its
folder NAME.dist-info. Redistributing this folder redistributes these packages, under these licences.
"""
WITHOUT_WHEELS = """\
This folder contains no other package: the dependencies of vidrisk are installed from the package index of the machine,
under their own licences. They include PyAV, whose wheels contain FFmpeg with libx264 and libx265 (GPL-2.0-or-later),
and for GPUs packages of NVIDIA, under NVIDIA's licences.
"""


def metadata_of(wheel: Path) -> Message:
    """Return the fields of a wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        return BytesParser().parsebytes(archive.read(name), headersonly=True)


def lines_of_lock(own: Path, extras: Iterable[str], wheels: Sequence[Path]) -> list[str]:
    """Return the lines of a requirements file that admits exactly these wheels.

    It is for ``pip install --require-hashes``.
    """
    lines = [f"# Exactly what SHA256SUMS lists: install with --require-hashes --no-index. {len(wheels) + 1} packages."]
    for wheel in (own, *wheels):
        described = metadata_of(wheel)
        name = described["Name"] + (f"[{','.join(extras)}]" if wheel == own else "")
        lines.append(f"{name}=={described['Version']} --hash=sha256:{sha256_of(wheel)}")
    return lines


def text_of_licenses(wheels: Sequence[Path]) -> str:
    """Return a page with every wheel, its licence, and the parts of it that have another one."""
    lines = [HEADER]
    for wheel in wheels:
        described = metadata_of(wheel)
        lines.append(f"{described['Name']} {described['Version']}: {license_of(described)}")
        lines += [f"    {note}" for note in _notes(wheel, described)]
    if len(wheels) == 1:
        lines += ["", WITHOUT_WHEELS]
    return "\n".join(lines) + "\n"


def license_of(described: Message) -> str:
    """Return a package's licence in one line, from whichever field its author used."""
    stated = str(described["License-Expression"] or described["License"] or "").strip()
    trove = [
        value.split(" :: ")[-1] for value in described.get_all("Classifier") or () if value.startswith("License ::")
    ]
    short = " ".join(stated.split())
    if short and len(short) <= MAX_LICENSE_CHARS and short.upper() != "UNKNOWN":
        return short
    return ", ".join(trove) or "not stated in one line: see the texts in the wheel"


def _notes(wheel: Path, described: Message) -> Iterable[str]:
    with zipfile.ZipFile(wheel) as archive:
        libraries = sorted({found[1] for name in archive.namelist() if (found := GPL_LIBRARIES.search(name))})
    if libraries:
        yield f"holds {' and '.join(libraries)}: GNU GPL 2.0 or later, which then holds for the wheel as a whole"
    if "nvidia" in f"{described['Author']} {described['Author-email']} {described['License']}".lower():
        yield "is NVIDIA's: its licence says on which machines it may be used and whether it may be handed on"
