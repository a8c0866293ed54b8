from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.tags import Tag, parse_tag

from vidrisk.deploy.devices import GLIBC, TARGETS
from vidrisk.deploy.wheels import Platform, download_wheels, requirements_from_lines, requirements_of
from vidrisk.runtimes.contract.errors import VidriskError

ORIN = Platform("aarch64", "3.10", (2, 35))
THOR = Platform("aarch64", "3.12", (2, 39))
PC = Platform("x86_64", "3.12", (2, 39))


def write(
    folder: Path, name: str, version: str = "1.0", *requires: str, tag: str = "py3-none-any", python: str = ">=3.8"
) -> Path:
    """Write a wheel that contains only metadata, and return its path."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        f"Requires-Python: {python}",
        *(f"Requires-Dist: {requirement}" for requirement in requires),
    ]
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n\nRequires-Dist: not-a-header\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return folder / f"{name}-{version}-{tag}.whl"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that pip uses as its only index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


def names(paths: list[Path]) -> list[str]:
    return ["-".join(path.name.split("-")[:2]) for path in paths]


def got(tmp_path: Path, platform: Platform, *requirements: str) -> list[str]:
    folder = tmp_path / "wheels"
    folder.mkdir()
    found = download_wheels([Requirement(requirement) for requirement in requirements], platform, folder)
    assert found == sorted(folder.iterdir())
    return names(found)


def test_markers_are_those_of_the_machine_that_is_meant(index: Path, tmp_path: Path) -> None:
    here = f"python_version == '{sys.version_info.major}.{sys.version_info.minor}' and platform_machine == 'x86_64'"
    write(
        index,
        "a",
        "1.0",
        "b; python_version < '3.11'",
        "c; platform_machine == 'aarch64'",
        f"d; {here}",
        "e; extra == 'x'",
    )
    for name in "bcde":
        write(index, name)
    assert got(tmp_path, ORIN, "a") == ["a-1.0", "b-1.0", "c-1.0"]


def test_extras_are_followed(index: Path, tmp_path: Path) -> None:
    write(index, "a", "1.0", "b[deep]; extra == 'wide'", "c; extra == 'other'")
    write(index, "b", "1.0", "d; extra == 'deep'")
    write(index, "d")
    assert got(tmp_path, ORIN, "a[wide]") == ["a-1.0", "b-1.0", "d-1.0"]


def test_an_extra_that_is_asked_for_later_is_followed_too(index: Path, tmp_path: Path) -> None:
    write(index, "a", "1.0", "b")
    write(index, "b", "1.0", "a[late]")
    write(index, "c")
    write(index, "a", "1.0", "b", "c; extra == 'late'")
    assert got(tmp_path, ORIN, "a") == ["a-1.0", "b-1.0", "c-1.0"]


def test_wheels_are_those_of_the_platform(index: Path, tmp_path: Path) -> None:
    for tag in (
        "cp310-cp310-manylinux_2_28_x86_64",
        "cp310-cp310-manylinux_2_28_aarch64",
        "cp311-cp311-manylinux_2_28_aarch64",
    ):
        write(index, "native", "1.0", tag=tag)
    write(index, "native", "2.0", tag="cp310-cp310-manylinux_2_39_aarch64")  # for a newer C library
    write(index, "native", "3.0", tag="cp312-cp312-manylinux_2_17_aarch64")
    write(index, "stable", tag="cp39-abi3-manylinux2014_aarch64")
    write(index, "later", "1.0")
    write(index, "later", "2.0", python=">=3.11")
    wanted = [Requirement(name) for name in ("native", "stable", "later")]
    assert [path.name for path in download_wheels(wanted, ORIN, tmp_path)] == [
        "later-1.0-py3-none-any.whl",
        "native-1.0-cp310-cp310-manylinux_2_28_aarch64.whl",
        "stable-1.0-cp39-abi3-manylinux2014_aarch64.whl",
    ]


def test_a_wheel_that_turns_out_too_new_is_replaced(index: Path, tmp_path: Path) -> None:
    for version in ("1.0", "2.0", "3.0"):
        write(index, "b", version)
    write(index, "a", "1.0", "b>=1.5")
    write(index, "c", "1.0", "b<3")
    assert got(tmp_path, ORIN, "a", "c") == ["a-1.0", "b-2.0", "c-1.0"]


def test_what_has_no_wheel_is_named(index: Path, tmp_path: Path) -> None:
    write(index, "a", "1.0", "nowhere>=2")
    write(index, "nowhere", "2.0", tag="cp310-cp310-manylinux_2_28_x86_64")
    with pytest.raises(VidriskError, match=r"nowhere>=2 has no wheel for Python 3\.10 on aarch64 \(glibc 2\.35\)"):
        got(tmp_path, ORIN, "a")


def test_what_contradicts_itself_is_named(index: Path, tmp_path: Path) -> None:
    write(index, "b", "1.0")
    write(index, "a", "1.0", "b<1")
    with pytest.raises(VidriskError, match=r"b[<>=1,]{6} has no wheel"):
        got(tmp_path, ORIN, "a", "b>=1")


def test_sources_are_not_taken(index: Path, tmp_path: Path) -> None:
    index.mkdir()
    (index / "a-1.0.tar.gz").write_bytes(b"")
    with pytest.raises(VidriskError, match="a has no wheel"):
        got(tmp_path, ORIN, "a")


def test_no_pip_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(VidriskError, match="pip cannot download wheels: no reason given"):
        download_wheels([Requirement("a")], ORIN, tmp_path)


def test_jetsons_get_the_cuda_that_their_driver_runs(own_wheel: Path) -> None:
    target = TARGETS["jetson-orin"]
    for platform, major in ((ORIN, "12"), (THOR, "13")):
        asked = {r.name: r for r in requirements_from_lines(target.requirements, platform)}
        assert asked.keys() == {"cuda-python"}
        assert [asked["cuda-python"].specifier.contains(f"{number}.9") for number in ("11", "12", "13", "14")] == [
            number == major for number in ("11", "12", "13", "14")
        ]
        of_vidrisk = {r.name for r in requirements_of(own_wheel, target.extras, platform)}
        assert "onnxruntime" in of_vidrisk and not of_vidrisk & {"torch", "transformers", "onnx", "openvino"}
    assert "openvino" in {r.name for r in requirements_of(own_wheel, ["cpu"], PC)}


def test_pip_is_told_every_tag_that_the_machine_takes() -> None:
    options = ORIN.pip_options
    platforms = {value for option, value in zip(options[::2], options[1::2], strict=True) if option == "--platform"}
    real = Tag("cp310", "cp310", "manylinux_2_35_aarch64")
    assert real.platform in platforms and "manylinux_2_36_aarch64" not in platforms
    assert {tag.platform for tag in parse_tag("cp310-cp310-manylinux2014_aarch64.manylinux_2_17_aarch64")} <= platforms


def test_every_python_of_every_target_has_a_c_library() -> None:
    assert {version for target in TARGETS.values() for version in target.pythons} <= set(GLIBC)
