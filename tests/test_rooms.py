"""Tests of the code structure: rooms and folders import in one direction, and files without cycles.

Rooms are ``runtimes``, ``calibration`` and ``export``.
Neighbouring folders have no two files of the same name.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
# Room → the vidrisk packages that it may import.
ALLOWED = {
    "runtimes": {"runtimes"},
    "calibration": {"runtimes", "calibration"},
    "export": {"runtimes", "calibration", "export"},
}
# Room → third parties that it must never know.
FORBIDDEN = {
    "runtimes": {"torch", "av", "decord", "onnx", "transformers", "peft"},
    "calibration": {"torch", "av", "decord", "PIL", "transformers", "peft"},
    "export": {"av", "decord", "typer"},
}
# Folder → the folders beside it that it may import.
FOLDERS = {
    "runtimes.contract": set(),
    "runtimes.tensorrt": {"contract"},
    "runtimes.tensorrt.build": {"contract", "tensorrt"},
    "runtimes.text": {"contract"},
    "export.gate": set(),
    "export.convert": {"gate"},
    "export.quantize": {"gate", "convert"},
    "export.foreign": {"gate", "convert"},
    "export.text": {"gate", "convert"},
    "export.vendor": {"foreign"},
    "vidrisk.files": set(),
    "vidrisk.metrics": set(),
    "vidrisk.frames": {"files"},
    "vidrisk.data": {"files", "frames", "decode"},
    "vidrisk.models": {"files", "frames", "data"},
    "vidrisk.train": {"files", "frames", "data", "metrics", "models", "decode"},
    "vidrisk.decode": {"files", "frames"},
    "vidrisk.inference": {"files", "frames", "data", "models", "decode"},
    "vidrisk.jobs": {"files", "frames", "metrics", "data", "models", "decode", "inference"},
    "vidrisk.report": {"files", "frames", "metrics", "decode", "inference", "jobs"},
    "vidrisk.verify": {"inference"},
    "vidrisk.doctor": {"decode", "verify"},
    "vidrisk.deploy": {"verify"},
    "vidrisk.bench": {"files", "frames", "metrics", "data", "decode", "inference", "jobs", "doctor"},
    "vidrisk.watch": {"files", "frames", "decode", "inference", "jobs", "report", "verify"},
}


@cache
def modules() -> dict[str, Path]:
    """Return the path of every module by its name.

    Names of modules in a room omit the package: ``export.gate.hops`` for ``vidrisk.export.gate.hops``.
    Other modules keep their full name, such as ``vidrisk.jobs.ledger``.
    """
    found = {}
    for room in (*ALLOWED, "vidrisk"):
        for path in sorted((REPOSITORY / room).rglob("*.py")):
            below = path.relative_to(REPOSITORY)
            if room == "vidrisk" and len(below.parts) > 1 and below.parts[1] in ALLOWED:
                continue  # the same files through a link
            found[".".join(below.with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def imports_of(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, anywhere in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def own_imports() -> dict[str, set[str]]:
    """Return the set of the project's own modules that each module imports, by module name."""
    known = modules()
    found: dict[str, set[str]] = defaultdict(set)
    for name, path in known.items():
        for imported in imports_of(path):
            first, _, rest = imported.partition(".")
            if first != "vidrisk" or rest == "__version__":
                continue
            full = rest if rest.partition(".")[0] in ALLOWED else imported
            while full and full not in known:
                full = full.rpartition(".")[0]
            if full and full != name:
                found[name].add(full)
    return found


def folder_of(module: str) -> str:
    return module if modules()[module].name == "__init__.py" else module.rpartition(".")[0]


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_one_way(room: str) -> None:
    files = sorted((REPOSITORY / room).rglob("*.py"))
    assert files
    for path in files:
        for module in imports_of(path):
            parts = module.split(".")
            if parts[0] == "vidrisk":
                assert parts[1] in ALLOWED[room] or module == "vidrisk.__version__", f"{path}: {module}"
            elif (room, path.name) != ("runtimes", "torch.py"):  # the torch runner's own business
                assert parts[0] not in FORBIDDEN[room], f"{path}: {module}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_import_one_way(folder: str) -> None:
    """Folders import only the folders allowed for them, including late imports and imports for types.

    ``vidrisk.demo``, the command line and the package itself may import everything.
    """
    room = folder.partition(".")[0]
    of_folder = [
        name
        for name in modules()
        if folder_of(name) == folder or (folder_of(name).startswith(f"{folder}.") and folder_of(name) not in FOLDERS)
    ]
    assert of_folder
    for name in of_folder:
        for imported in imports_beyond(name, room):
            other = folder_of(imported)
            if not other.startswith(f"{room}.") or other == folder or other.startswith(f"{folder}."):
                continue
            assert other.removeprefix(f"{room}.").partition(".")[0] in FOLDERS[folder], f"{name}: {imported}"


def imports_beyond(name: str, room: str) -> set[str]:
    """Return the imports of a module and, recursively, of imported modules at the top level of the room.

    Modules at the top level lie in no folder of the room.
    Those of the package ``vidrisk`` itself are not followed.
    """
    found: set[str] = set()
    left = [name]
    while left:
        for imported in own_imports()[left.pop()] - found:
            found.add(imported)
            left += [imported] if folder_of(imported) == room != "vidrisk" else []  # the package itself may import all
    return found


def test_every_folder_has_its_place() -> None:
    folders = {folder_of(name) for name in modules()} - {*ALLOWED, "vidrisk", "vidrisk.cli"}
    assert {
        folder
        for folder in folders
        if folder in FOLDERS or not any(folder.startswith(f"{known}.") for known in FOLDERS)
    } == set(FOLDERS)


def test_every_file_of_tests_is_collected(request: pytest.FixtureRequest) -> None:
    """No folder with tests matches a pattern that pytest skips.

    Pytest skips such folders without a message.
    """
    left_out = [
        pattern
        for pattern in request.config.getini("norecursedirs")
        for folder in (REPOSITORY / "tests").rglob("*")
        if folder.is_dir() and any(folder.glob("test_*.py")) and folder.match(pattern)
    ]
    assert left_out == []


def test_no_circle_of_files() -> None:
    try:
        TopologicalSorter(own_imports()).prepare()
    except CycleError as circle:
        pytest.fail(" → ".join(reversed(circle.args[1])))


def test_folders_side_by_side_have_no_two_files_of_one_name() -> None:
    """Neighbouring folders contain no two files of the same name.

    The command line is an exception: a command has the same name as the code that it calls.
    """
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, path in modules().items():
        folder = folder_of(name)
        if path.name != "__init__.py" and folder != "vidrisk.cli" and "." in folder:
            places[folder.rpartition(".")[0], path.name].append(name)
    assert [names for names in places.values() if len(names) > 1] == []


def test_links_show_the_rooms_inside_the_package() -> None:
    for room in ALLOWED:
        link = REPOSITORY / "vidrisk" / room
        assert link.is_symlink() and link.resolve() == REPOSITORY / room


def test_the_command_line_starts_without_heavy_imports() -> None:
    code = "import sys, vidrisk.cli.app; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "pydantic", "onnxruntime", "openvino", "av", "PIL", "transformers"} & set(loaded)


def test_settings_of_a_run_load_no_data_format() -> None:
    code = "import sys, vidrisk.jobs.run_settings; print(*(name for name in sys.modules if 'vidrisk.data.' in name))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["vidrisk.data.directions"]
