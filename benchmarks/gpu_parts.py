"""Split large files into parts for transport, and join and verify them, using only the standard library.

A file that is larger than a part is split into NAME.part00, NAME.part01, …; SHA256SUMS contains the checksums of parts
and of whole files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

SUMS = "SHA256SUMS"
PART = re.compile(r"(?P<whole>.+)\.part(?P<number>[0-9]{2,3})")
BLOCK = 1 << 20


class WheelsError(Exception):
    """A problem with the folder, or a message of pip, in one line."""


def split(wheels: Path, part_bytes: int) -> None:
    """Split the files that are larger than a part, and write all checksums."""
    sums: dict[str, str] = {}
    for old in [
        path
        for path in wheels.iterdir()
        if (match := PART.fullmatch(path.name)) and (wheels / match["whole"]).is_file()
    ]:
        old.unlink()  # of the same file, cut before, perhaps into larger parts
    for path in sorted(path for path in wheels.iterdir() if path.is_file() and path.name != SUMS):
        sums[path.name] = _sha256(path)
        if path.stat().st_size > part_bytes and not PART.fullmatch(path.name):
            with path.open("rb") as file:
                for number, block in enumerate(iter(lambda: file.read(part_bytes), b"")):
                    part = path.with_name(f"{path.name}.part{number:02}")
                    part.write_bytes(block)
                    sums[part.name] = hashlib.sha256(block).hexdigest()
            path.unlink()
    (wheels / SUMS).write_text(
        "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())), encoding="utf-8"
    )


def join(wheels: Path, into: Path) -> None:
    """Join the parts, and compare all files with SHA256SUMS if it exists.

    Raises:
        WheelsError: a part is missing, a file differs from its checksum, or the folder is empty.
    """
    if not wheels.is_dir():
        raise WheelsError(f"{wheels} is no folder")
    parts: dict[str, dict[int, Path]] = {}
    for path in sorted(wheels.iterdir()):
        if match := PART.fullmatch(path.name):
            parts.setdefault(match["whole"], {})[int(match["number"])] = path
    sums = dict(_sums(wheels / SUMS))
    for name in sums:
        match = PART.fullmatch(name)
        if not (wheels / name).is_file() and (match or name not in parts):
            raise WheelsError(f"{name} is missing in {wheels}; fix: copy it again")
    for whole, numbered in parts.items():
        if gaps := set(range(max(numbered) + 1)) - set(numbered):
            raise WheelsError(f"{whole}.part{min(gaps):02} is missing in {wheels}; fix: copy it again")
    for name, digest in sums.items():
        if (wheels / name).is_file() and _sha256(wheels / name) != digest:
            raise WheelsError(f"{name} is not what {SUMS} says; fix: copy it again")
    into.mkdir(parents=True, exist_ok=True)
    for whole, numbered in parts.items():
        with (into / whole).open("wb") as file:
            for number in sorted(numbered):
                file.write(numbered[number].read_bytes())
        if sums.get(whole, digest := _sha256(into / whole)) != digest:
            raise WheelsError(f"{whole}, joined, is not what {SUMS} says; fix: copy its parts again")
    if not [*wheels.glob("*.whl"), *into.glob("*.whl")]:
        raise WheelsError(f"{wheels} has no wheels; fix: benchmarks/gpu_offline.sh --collect {wheels}")


def _sums(path: Path) -> Iterator[tuple[str, str]]:
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            match = re.fullmatch(r"([0-9a-f]{64}) [ *]([^/]+)", line)
            if not match:
                raise WheelsError(f"{path} has the line {line!r}; allowed: as sha256sum writes them")
            yield match[2], match[1]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()
