"""Fixtures of a real deployment for this machine, with everything that it depends on.

The wheels are packed from the packages that the tests run with.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from colour_bundle import seal_golden, write_colour_bundle
from packaging.utils import canonicalize_name

from vidrisk.deploy.deployment import write_deployment
from vidrisk.deploy.devices import GLIBC, HERE, TARGETS
from vidrisk.deploy.wheel import wheel_from_installed, write_wheel
from vidrisk.deploy.wheels import Platform, requirements_of

ODD_INBOX = '/mnt/nas 1/100% "in" $HOME\'\\/入'


@pytest.fixture(scope="session")
def odd_inbox() -> str:
    return ODD_INBOX


@pytest.fixture(scope="session")
def here() -> Platform:
    return Platform(platform.machine(), HERE, GLIBC[HERE])


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seal_golden(write_colour_bundle(tmp_path_factory.mktemp("bundles") / "颜色 colours.bundle")).root


@pytest.fixture(scope="session")
def own_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session", autouse=True)
def wheel_built_once(own_wheel: Path) -> Iterator[None]:
    """Build the wheel once and copy it into every deployment.

    ``test_wheel`` shows that the same sources give the same file.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vidrisk.deploy.deployment.write_wheel", lambda folder: Path(shutil.copy(own_wheel, folder)))
        yield


@pytest.fixture(scope="session")
def folders(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a deployment folder by target; the name of its inbox needs quoting everywhere."""
    root = tmp_path_factory.mktemp("folders")
    return {name: write_deployment(bundle, name, root / f"对 {name}", inbox=ODD_INBOX).folder for name in TARGETS}


@pytest.fixture(scope="session")
def wheelhouse(own_wheel: Path, here: Platform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the dependencies of ``vidrisk[cpu]``, packed again from the installed packages."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    pending, known = requirements_of(own_wheel, ["cpu"], here), set()
    while pending:
        name = canonicalize_name(pending.pop().name)
        if name not in known:
            known.add(name)
            pending += requirements_of(wheel_from_installed(metadata.distribution(name), folder), (), here)
    return folder


@pytest.fixture(scope="session")
def deployed(bundle: Path, wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that ``vidrisk deploy BUNDLE --target cpu --wheels`` writes.

    pip takes the wheels only from the wheelhouse.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(wheelhouse))
        out = tmp_path_factory.mktemp("deployed") / "对 cpu"
        return write_deployment(bundle, "cpu", out, wheels=True, python=HERE).folder


@pytest.fixture(scope="session")
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a script; keyword arguments are added to the current environment."""

    def start(script: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [os.fspath(argument) for argument in (script, *arguments)]
        return subprocess.run(
            command,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )

    return start
