"""Build of vidrisk's own wheel from a checkout, or repacking of the installed package, both offline."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath

import vidrisk
from vidrisk.runtimes.contract.errors import VidriskError

ROOMS = ("vidrisk", "export", "calibration", "runtimes")
BESIDE = ("pyproject.toml", "README.md", "LICENSE")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
# Timestamp of everything in a wheel, for reproducible files: the earliest that a zip can hold.
EPOCH_S = 315_532_800
EPOCH = (1980, 1, 1, 0, 0, 0)
# Files that pip adds to the metadata of a wheel when it installs it; RECORD is written anew.
INSTALLERS = {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json"}


def write_wheel(folder: Path) -> Path:
    """Write vidrisk's wheel into ``folder`` and return its path.

    Raises:
        VidriskError: it cannot be built here, or the installed files were changed.
    """
    root = Path(vidrisk.__file__).resolve().parent.parent
    if all((root / name).exists() for name in (*ROOMS, *BESIDE)):
        return wheel_from_checkout(root, folder)
    return wheel_from_installed(metadata.distribution("vidrisk"), folder)


def wheel_from_checkout(root: Path, folder: Path) -> Path:
    """Build the wheel in a copy of the sources.

    setuptools leaves files beside the sources, which may belong to another user.

    Raises:
        VidriskError: setuptools is missing, too old, or fails.
    """
    with tempfile.TemporaryDirectory(prefix="vidrisk-wheel-") as scratch:
        copy, built = Path(scratch, "source"), Path(scratch, "built")
        copy.mkdir()
        built.mkdir()
        for room in ROOMS:
            shutil.copytree(
                root / room, copy / room, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
            )
        for name in BESIDE:
            shutil.copy(root / name, copy / name)
        end = subprocess.run(
            [sys.executable, "-c", BUILD, str(built)],
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH_S)},
        )
        if end.returncode:
            raise VidriskError(
                f"vidrisk cannot be built into a wheel: {(end.stderr.splitlines() or ['no reason given'])[-1]}",
                fix="pip install 'setuptools>=77'",
            )
        (wheel,) = built.glob("*.whl")
        return Path(shutil.copy(wheel, folder))


def wheel_from_installed(distribution: metadata.Distribution, folder: Path) -> Path:
    """Pack the files that pip recorded (``RECORD``), after comparing each with its hash there.

    Scripts are left out; pip creates them again when it installs the wheel.

    Raises:
        VidriskError: nothing is recorded, or a file is missing or was changed.
    """
    name, version = distribution.metadata["Name"], distribution.version
    described = (distribution.read_text("WHEEL") or "").splitlines()
    tags = [line.removeprefix("Tag:").strip() for line in described if line.startswith("Tag:")]
    if not tags or not distribution.files:
        raise VidriskError(
            f"{name} {version} was not installed from a wheel", fix=f"pip install --force-reinstall {name}"
        )
    (metadata_folder,) = {
        file.parent for file in distribution.files if re.fullmatch(r"[^/]+\.dist-info/METADATA", str(file))
    }
    wheel = folder / f"{name.replace('-', '_')}-{version}-{compress_tags(tags)}.whl"
    record: list[str] = []
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in sorted(distribution.files, key=str):
            path = PurePosixPath(file)
            if (
                ".." in path.parts
                or path.suffix == ".pyc"
                or (file.parent == metadata_folder and path.name in INSTALLERS)
            ):
                continue
            try:
                content = Path(str(distribution.locate_file(file))).read_bytes()
            except OSError as error:
                raise VidriskError(
                    f"{path} of {name} {version} cannot be read: {error.strerror}",
                    fix=f"pip install --force-reinstall {name}",
                ) from error
            digest = _digest(content)
            if file.hash and (file.hash.mode, file.hash.value) != ("sha256", digest):
                raise VidriskError(
                    f"{path} was changed after {name} {version} was installed",
                    fix=f"pip install --force-reinstall {name}",
                )
            _add(archive, str(path), content)
            record.append(f"{_quote_csv(str(path))},sha256={digest},{len(content)}")
        own_name = f"{metadata_folder}/RECORD"
        _add(archive, own_name, "".join(f"{line}\n" for line in [*record, f"{_quote_csv(own_name)},,"]).encode())
    return wheel


def compress_tags(tags: list[str]) -> str:
    """Return the compressed tag set of a wheel's file name.

    ``py2-none-any`` and ``py3-none-any`` become ``py2.py3-none-any``.
    """
    parts = zip(*(tag.split("-") for tag in tags), strict=True)
    return "-".join(".".join(dict.fromkeys(part)) for part in parts)


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _quote_csv(path: str) -> str:
    """Quote a field of CSV if needed."""
    return '"' + path.replace('"', '""') + '"' if "," in path or '"' in path else path


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.compress_type = archive.compression
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content, compresslevel=1)
