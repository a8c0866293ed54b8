"""The one-way rule: vidrisk → export → calibration → runtimes, and what a room must never know."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
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


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


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


def test_links_show_the_rooms_inside_the_package() -> None:
    for room in ALLOWED:
        link = REPOSITORY / "vidrisk" / room
        assert link.is_symlink() and link.resolve() == REPOSITORY / room


def test_the_command_line_starts_without_heavy_imports() -> None:
    code = "import sys, vidrisk.cli.app; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "pydantic", "onnxruntime", "openvino", "av", "PIL", "transformers"} & set(loaded)
