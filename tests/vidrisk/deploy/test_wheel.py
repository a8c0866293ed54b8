from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import vidrisk
from vidrisk.deploy import wheel as subject
from vidrisk.deploy.wheel import compress_tags, wheel_from_checkout, wheel_from_installed, write_wheel
from vidrisk.runtimes.contract.errors import VidriskError

CHECKOUT = Path(vidrisk.__file__).resolve().parent.parent
SMALL = "annotated-types"


def contents(wheel: Path, *, but: str = "RECORD") -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith((but, "/"))}


def installed(wheel: Path, folder: Path) -> metadata.Distribution:
    """Install a wheel with pip, without a network, and return the installed distribution."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-compile",
        "--disable-pip-version-check",
        "--target",
        str(folder),
        str(wheel),
    ]
    subprocess.run(command, check=True, timeout=120)
    (distribution,) = metadata.distributions(path=[str(folder)])
    return distribution


def test_a_checkout_gives_the_whole_package(own_wheel: Path, tmp_path: Path) -> None:
    assert own_wheel.name == f"vidrisk-{vidrisk.__version__}-py3-none-any.whl"
    names = set(contents(own_wheel))
    modules = {
        path.relative_to(CHECKOUT) for path in (CHECKOUT / "vidrisk").rglob("*.py") if "__pycache__" not in path.parts
    }
    assert {str(path) for path in modules} <= names
    assert {
        "vidrisk/runtimes/contract/bundle.py",
        "vidrisk/export/gate/gate.html.j2",
        "vidrisk/deploy/files/install.sh",
        "vidrisk/deploy/files/deploy.conf.j2",
        "vidrisk/doctor/known_trouble.json",
        "vidrisk/watch/service.py",
    } <= names
    code = (
        f"import sys; sys.path[:] = [{str(own_wheel)!r}, *sys.path]; import vidrisk.watch.inbox as m; print(m.__file__);"
        "from vidrisk.doctor.support import read_table; print(len(read_table()))"
    )
    end = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert end.stdout.startswith(str(own_wheel))


def test_the_same_sources_make_the_same_file(own_wheel: Path, tmp_path: Path) -> None:
    assert write_wheel(tmp_path).read_bytes() == own_wheel.read_bytes()


def test_a_checkout_is_not_touched(tmp_path: Path) -> None:
    root = tmp_path / "source"
    root.mkdir()
    for name in subject.ROOMS:
        shutil.copytree(CHECKOUT / name, root / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in subject.BESIDE:
        shutil.copy(CHECKOUT / name, root / name)
    before = sorted(root.rglob("*"))
    wheel_from_checkout(root, tmp_path)
    assert sorted(root.rglob("*")) == before


def test_sources_that_cannot_be_built_are_one_line(tmp_path: Path) -> None:
    root = tmp_path / "source"
    for name in subject.ROOMS:
        (root / name).mkdir(parents=True)
    for name in subject.BESIDE:
        (root / name).write_text("[project\n")
    with pytest.raises(VidriskError, match="cannot be built into a wheel"):
        wheel_from_checkout(root, tmp_path)
    assert not list(tmp_path.glob("*.whl"))


def test_what_is_installed_becomes_the_wheel_that_it_was(own_wheel: Path, tmp_path: Path) -> None:
    distribution = installed(own_wheel, tmp_path / "site")
    again = wheel_from_installed(distribution, tmp_path)
    assert again.name == own_wheel.name and contents(again) == contents(own_wheel)
    assert {file.name for file in installed(again, tmp_path / "site again").files or ()} >= {
        "entry_points.txt",
        "app.py",
    }


def test_compiled_files_and_the_marks_of_pip_are_left_out(tmp_path: Path) -> None:
    again = wheel_from_installed(metadata.distribution(SMALL), tmp_path)
    assert not [
        name
        for name in contents(again, but="!")
        if name.endswith((".pyc", "INSTALLER", "direct_url.json", "REQUESTED"))
    ]


def test_an_installation_that_was_changed_is_refused(own_wheel: Path, tmp_path: Path) -> None:
    distribution = installed(own_wheel, tmp_path / "site")
    changed = tmp_path / "site" / "vidrisk" / "__init__.py"
    changed.write_text(changed.read_text() + "# mine\n")
    with pytest.raises(VidriskError, match=r"vidrisk/__init__\.py was changed after"):
        wheel_from_installed(distribution, tmp_path)
    changed.unlink()
    with pytest.raises(VidriskError, match=r"vidrisk/__init__\.py of vidrisk .* cannot be read: No such file"):
        wheel_from_installed(distribution, tmp_path)


def test_what_was_not_installed_from_a_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old-1.0.egg-info").mkdir()
    (tmp_path / "old-1.0.egg-info" / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: old\nVersion: 1.0\n")
    (distribution,) = metadata.distributions(path=[str(tmp_path)])
    with pytest.raises(VidriskError, match=r"old 1\.0 was not installed from a wheel"):
        wheel_from_installed(distribution, tmp_path)


@pytest.mark.parametrize(
    ("tags", "compressed"),
    [
        (["py3-none-any"], "py3-none-any"),
        (["py2-none-any", "py3-none-any"], "py2.py3-none-any"),
        (
            ["cp311-cp311-manylinux_2_17_x86_64", "cp311-cp311-manylinux2014_x86_64"],
            "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64",
        ),
    ],
)
def test_compressed_tags(tags: list[str], compressed: str) -> None:
    assert compress_tags(tags) == compressed
