"""Tests of the release: wheel and source archive install into clean environments and predict.

The tests include the lowest versions of the dependencies.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from checkout import copy_checkout
from colour_bundle import write_colour_bundle
from PIL import Image

import vidrisk

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

pytestmark = pytest.mark.slow(minutes=4)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the source archive and the wheel built from it, both built without an index."""
    folder = tmp_path_factory.mktemp("release")
    copy_checkout(folder / "source", "tests")
    run(
        folder / "source",
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        str(folder / "dist"),
        ".",
        PIP_NO_INDEX="1",
    )
    (source,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return source, wheel


def run(folder: Path, *command: str, **environment: str) -> str:
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, **environment})
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    return ended.stdout


def lowest_versions() -> list[str]:
    """Return exact requirements at the lower bounds of the dependencies that a device installs."""
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cpu"]]
    return [re.sub(r"([\w-]+)>=([\w.]+).*", r"\1==\2", requirement) for requirement in wanted]


def find_interpreter(version: str) -> str:
    """Return a Python of the given version, from the system or pyenv; skip the test if this machine has none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for found in (shutil.which(f"python{version}"), *map(str, pyenv.glob(f"{version}.*/bin/python"))):
        if found and subprocess.run([found, "-c", "import ensurepip, venv"], capture_output=True).returncode == 0:
            return found
    pytest.skip(f"this machine has no Python {version}")


def predict(folder: Path, archive: Path, *more: str, python: str = sys.executable) -> dict[str, object]:
    """Install an archive into a clean environment, predict two photos there, and return the summary."""
    run(folder, python, "-m", "venv", str(folder / "venv"))
    binaries = folder / "venv" / "bin"
    run(folder, str(binaries / "python"), "-m", "pip", "install", "--quiet", *more, f"{archive}[cpu]")
    bundle = write_colour_bundle(folder / "colour.bundle").root
    (folder / "photos").mkdir()
    for name, rgb in (("a", (200, 20, 20)), ("b", (20, 20, 200))):
        Image.new("RGB", (64, 48), rgb).save(folder / "photos" / f"{name}.png")
    run(folder, str(binaries / "vidrisk"), "infer", str(bundle), "photos", "-o", "out", PYTHONPATH="")
    assert (folder / "out" / "report.html").is_file()
    assert run(folder, str(binaries / "vidrisk"), "--version", PYTHONPATH="").split()[-1] == vidrisk.__version__
    summary: dict[str, object] = json.loads((folder / "out" / "summary.json").read_text(encoding="utf-8"))
    return summary


def test_archives_hold_the_rooms_and_nothing_of_tests(archives: tuple[Path, Path]) -> None:
    source, wheel = archives
    with tarfile.open(source) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "README.md",
        "LICENSE",
        "pyproject.toml",
        "export/export.py",
        "runtimes/ort.py",
        "calibration/recipe.py",
    } <= held
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    assert {name.partition("/")[0] for name in names} == {"vidrisk", f"vidrisk-{vidrisk.__version__}.dist-info"}
    modules = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "vidrisk").rglob("*")
        if path.suffix in (".py", ".json", ".yaml", ".j2", ".css", ".js") and "__pycache__" not in path.parts
    }
    assert modules <= set(names)


def test_the_wheel_predicts_in_a_clean_environment(archives: tuple[Path, Path], tmp_path: Path) -> None:
    assert predict(tmp_path, archives[1])["states"] == {"ok": 2}


@pytest.mark.parametrize("version", ["3.10", "3.12", "3.13"])
def test_the_wheel_predicts_on_other_versions_of_python(
    version: str, archives: tuple[Path, Path], tmp_path: Path
) -> None:
    assert predict(tmp_path, archives[1], python=find_interpreter(version))["states"] == {"ok": 2}
    told = run(tmp_path, str(tmp_path / "venv" / "bin" / "python"), "--version").split()[-1]
    assert told.startswith(f"{version}.")


def test_the_source_archive_predicts_with_the_lowest_versions(archives: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "lowest.txt").write_text("\n".join(lowest_versions()) + "\n", encoding="utf-8")
    assert predict(tmp_path, archives[0], "-c", "lowest.txt")["states"] == {"ok": 2}
    installed = run(tmp_path, str(tmp_path / "venv" / "bin" / "python"), "-m", "pip", "list", "--format", "freeze")
    assert "numpy==1.26.0" in installed and "typer==0.19.0" in installed


def test_one_version(archives: tuple[Path, Path]) -> None:
    assert archives[1].name.startswith(f"vidrisk-{vidrisk.__version__}-")
    assert f"version: {vidrisk.__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {vidrisk.__version__} — " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
