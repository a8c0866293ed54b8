"""A copy of the packages like a user's clone, into which pip may write."""

from __future__ import annotations

import shutil
from pathlib import Path

from pages import REPOSITORY

PARTS = ("vidrisk", "export", "calibration", "runtimes", "pyproject.toml", "README.md", "LICENSE")


def copy_checkout(folder: Path, *more: str) -> Path:
    """Copy the packages, the files that their build needs, and ``more`` of the repository into a folder."""
    folder.mkdir(exist_ok=True)
    for path in (REPOSITORY / part for part in (*PARTS, *more)):
        if path.is_dir():
            left_out = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, folder / path.name, symlinks=True, ignore=left_out)
        else:
            shutil.copy(path, folder)
    return folder
