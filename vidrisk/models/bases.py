"""Bases of a run: the trained weights of earlier runs, copied into its directory and merged into the backbone."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from vidrisk.models.classifier import ADAPTER, HEAD
from vidrisk.models.trainable import Trainable
from vidrisk.runtimes.contract.bundle import whole_folder
from vidrisk.runtimes.contract.errors import SettingsError

BASE, ADAPTER_SETTINGS = "base", "adapter_config.json"


def weight_files(root: Path) -> list[Path]:
    """Return the files of trained weights in a run directory in a fixed order, including those of its bases.

    Checkpoints are left out.
    """
    own = [*sorted(root.glob("*.safetensors")), *sorted((root / ADAPTER).glob("*.safetensors"))]
    return own + (weight_files(root / BASE) if (root / BASE).is_dir() else [])


def bases_of(root: Path) -> list[Path]:
    """Return the folders of the runs that a run started from, the earliest first."""
    base = root / BASE
    return [*bases_of(base), base] if base.is_dir() else []


def load_bases(model: Trainable, bases: Sequence[Path]) -> None:
    """Load what earlier runs trained into a plain model, one after the other, and merge it.

    Raises:
        BundleError: something does not fit the model.
    """
    for base in bases:
        model.load_backbone(base)
        model.merge()


def start_digest(root: Path) -> str:
    """Return the sha256 over everything that a run takes from a folder that it starts from.

    That is trained weights except heads, and the settings of adapters.
    """
    digest = hashlib.sha256()
    for path in weight_files(root):
        if path.name != HEAD:
            for file in (path, path.with_name(ADAPTER_SETTINGS)):
                content = file.read_bytes() if file.is_file() else b""
                digest.update(f"{file.relative_to(root)} {len(content)}\0".encode())
                digest.update(content)
    return digest.hexdigest()


def copy_base(source: Path, root: Path) -> None:
    """Copy what a run trained, except its head, into a new run directory that starts from it.

    Args:
        source: directory of the trained run.
        root: directory of the new run.

    Raises:
        SettingsError: the new run already starts from another run.
    """
    if (root / BASE).is_dir():
        if start_digest(root / BASE) != start_digest(source):
            raise SettingsError(f"{root} was started from another run than {source}", fix="resume with the same one")
        return
    with whole_folder(root / BASE) as staged:
        for path in weight_files(source):
            target = staged / path.relative_to(source)
            if path.name == HEAD:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            settings = path.with_name(ADAPTER_SETTINGS)
            if settings.is_file():
                shutil.copyfile(settings, target.with_name(settings.name))
