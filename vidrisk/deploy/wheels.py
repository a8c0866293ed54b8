"""Download of the wheels that vidrisk depends on, for another machine.

pip can download for another platform, but evaluates markers (``python_version < '3.11'``) for this machine
(https://github.com/pypa/pip/issues/11664). So dependencies are resolved here, with the markers of the target machine,
and pip downloads one round of wheels after another.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import NormalizedName, canonicalize_name, parse_wheel_filename

from vidrisk.deploy.contents import metadata_of
from vidrisk.runtimes.contract.errors import VidriskError
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress

OLDEST_GLIBC_MINOR = 17  # manylinux2014; older wheels have other names, and are rare
NO_MATCH = re.compile(r"No matching distribution found for ([A-Za-z0-9._-]+)")


@dataclass(frozen=True)
class Platform:
    """The target machine.

    Attributes:
        machine: ``x86_64`` or ``aarch64``.
        python: version of CPython (``3.10``).
        glibc: version of the C library (2, 35).
    """

    machine: str
    python: str
    glibc: tuple[int, int]

    @property
    def markers(self) -> dict[str, str]:
        """The environment of PEP 508, as far as it can be known."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }

    @property
    def pip_options(self) -> list[str]:
        major, minor = self.glibc
        platforms = [
            f"manylinux_{major}_{number}_{self.machine}" for number in range(minor, OLDEST_GLIBC_MINOR - 1, -1)
        ]
        platforms += [f"manylinux2014_{self.machine}", f"linux_{self.machine}"]
        tag = f"cp{self.python.replace('.', '')}"
        options = ["--implementation", "cp", "--python-version", self.python]
        options += [word for abi in (tag, "abi3", "none") for word in ("--abi", abi)]
        return options + [word for platform in platforms for word in ("--platform", platform)]


def requirements_of(wheel: Path, extras: Iterable[str], platform: Platform) -> list[Requirement]:
    """Return the requirements of a wheel on a platform, including those of the given extras."""
    requirements = map(Requirement, metadata_of(wheel).get_all("Requires-Dist") or ())
    environments = [{**platform.markers, "extra": extra} for extra in ("", *sorted(extras))]
    return [
        r
        for r in requirements
        if r.marker is None or any(r.marker.evaluate(environment) for environment in environments)
    ]


def requirements_from_lines(lines: Iterable[str], platform: Platform) -> list[Requirement]:
    """Return the lines of a requirements file that apply to a platform."""
    requirements = map(Requirement, lines)
    return [r for r in requirements if r.marker is None or r.marker.evaluate({**platform.markers, "extra": ""})]


def download_wheels(
    requirements: Sequence[Requirement], platform: Platform, folder: Path, on_progress: OnProgress = ignore_progress
) -> list[Path]:
    """Fill ``folder`` with wheels for the requirements and all their dependencies.

    If a specifier found later excludes a wheel that was already downloaded, that wheel is replaced; there is no further
    backtracking.

    Args:
        requirements: to download wheels for.
        platform: the target machine.
        folder: for the wheels.
        on_progress: reports what is done, how many wheels there are and how many are known to be needed.

    Returns:
        Paths of all wheels, sorted.

    Raises:
        VidriskError: a package has no wheel for the platform, requirements contradict each other, or pip fails.
    """
    wanted: dict[NormalizedName, Requirement] = {}
    wheels: dict[NormalizedName, Path] = {}
    pending = list(requirements)
    while pending:
        changed: set[NormalizedName] = set()
        for requirement in pending:
            name = canonicalize_name(requirement.name)
            if _narrow(wanted.setdefault(name, Requirement(name)), requirement) or name not in wheels:
                changed.add(name)
        missing = sorted(
            name for name in changed if name not in wheels or not _fits(wheels[name], wanted[name].specifier)
        )
        on_progress("wheels", len(wheels), len(wanted))
        for name in missing:
            if name in wheels:
                wheels.pop(name).unlink()
        if missing:
            _download([f"{name}{wanted[name].specifier}" for name in missing], platform, folder)
        wheels = {parse_wheel_filename(path.name)[0]: path for path in sorted(folder.glob("*.whl"))}
        pending = [
            found for name in sorted(changed) for found in requirements_of(wheels[name], wanted[name].extras, platform)
        ]
    on_progress("wheels", len(wheels), len(wanted))
    return sorted(wheels.values())


def _narrow(known: Requirement, other: Requirement) -> bool:
    """Add the constraints of ``other`` to ``known``; return whether that changes anything."""
    before = (known.specifier, set(known.extras))
    known.specifier &= other.specifier
    known.extras |= other.extras
    return before != (known.specifier, known.extras)


def _fits(wheel: Path, specifier: SpecifierSet) -> bool:
    return specifier.contains(parse_wheel_filename(wheel.name)[1], prereleases=True)


def _download(requirements: list[str], platform: Platform, folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--no-input",
        "--quiet",
        "--dest",
        str(folder),
        *platform.pip_options,
        *requirements,
    ]
    end = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if not end.returncode:
        return
    missing = NO_MATCH.search(end.stderr)
    if missing:
        asked = next((r for r in requirements if r.startswith(missing[1])), missing[1])
        raise VidriskError(
            f"{asked} has no wheel for Python {platform.python} on {platform.machine} "
            f"(glibc {platform.glibc[0]}.{platform.glibc[1]}) in the package index",
            fix="leave wheels out and install on a network, or give another python",
        )
    said = end.stderr.splitlines() or ["no reason given"]
    errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR")]
    raise VidriskError(
        f"pip cannot download wheels: {(errors or said)[-1]}",
        fix="check the network and the package index, or leave wheels out",
    )
