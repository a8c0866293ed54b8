"""Tests of whole runs over folders of phone photos, with and without the extra that reads them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from colour_bundle import write_colour_bundle
from phone_photos import dng, heic, jpeg, smooth
from PIL import Image
from small_media import RGB

from vidrisk.jobs.ledger import read_ledger
from vidrisk.runtimes.contract.errors import EXIT_OK, EXIT_SOME_FAILED

ROOT = Path(__file__).parents[3]
# What an interpreter without the extra finds, or rather does not.
HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pi_heif", "pillow_heif"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colour_bundle(tmp_path_factory.mktemp("bundle") / "colours.bundle").root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "DCIM"
    folder.mkdir()
    red, green, blue = (Image.new("RGB", (96, 64), RGB[colour]) for colour in ("red", "green", "blue"))
    contents = {
        "IMG_1.HEIC": heic(red),
        "IMG_2.HEIC": heic(blue),
        "sent.jpg": heic(green),
        "DJI_1.DNG": dng(jpeg(red)),
        "cut.jfif": jpeg(smooth(96, 64))[:-600],
        "open.jpe": jpeg(red)[:-2],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def infer(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: Path, hidden: bool = False) -> subprocess.CompletedProcess[str]:
        (tmp_path / "site").mkdir(exist_ok=True)
        (tmp_path / "site" / "sitecustomize.py").write_text(HIDE if hidden else "", encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT), *sys.path])}
        command = [sys.executable, "-m", "vidrisk", "infer", *map(str, arguments), "--no-report", "--workers", "1"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)

    return run


def test_a_folder_of_phone_photos(
    bundle: Path, photos: Path, infer: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    ended = infer(bundle, photos, "-o", photos.parent / "out")
    rows = {Path(row.path).name: row for row in read_ledger(photos.parent / "out")}
    states = {name: row.state for name, row in rows.items()}
    assert states.pop("cut.jfif") == "partial" and set(states.values()) == {"ok"} and len(rows) == 6
    assert "of the picture is missing and shown in grey" in rows["cut.jfif"].reason
    assert rows["DJI_1.DNG"].reason.startswith("shows the embedded JPEG preview of 96x64 pixels")
    assert (
        rows["IMG_1.HEIC"].reason == rows["open.jpe"].reason == "" and "pip install" not in ended.stdout + ended.stderr
    )
    assert ended.returncode in (EXIT_OK, EXIT_SOME_FAILED)


def test_without_the_extra_every_photo_has_its_row_and_the_terminal_says_it_once(
    bundle: Path, photos: Path, infer: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    ended = infer(bundle, photos, "-o", photos.parent / "out", hidden=True)
    assert ended.returncode == EXIT_SOME_FAILED
    rows = {Path(row.path).name: row for row in read_ledger(photos.parent / "out")}
    for name in ("IMG_1.HEIC", "IMG_2.HEIC", "sent.jpg"):
        assert rows[name].state == "skipped"
        assert rows[name].reason == "is a HEIF photo: pi_heif is not installed; fix: pip install 'vidrisk[heif]'"
    assert rows["DJI_1.DNG"].state == "ok"
    assert (ended.stdout + ended.stderr).count("pip install 'vidrisk[heif]'") == 1
