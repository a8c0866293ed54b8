"""Remedies are said in the words of whoever reads them: arguments in the library, flags on the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vidrisk.cli
from vidrisk.cli.remedies import FLAGS, line_from_error
from vidrisk.runtimes.contract.errors import RuntimeFailure

LIBRARY = {path: path.read_text(encoding="utf-8") for room in ("runtimes", "calibration", "export", "vidrisk")
           for path in (Path(vidrisk.cli.__file__).parents[2] / room).rglob("*.py") if "cli" not in path.parts}


def test_a_remedy_names_flags_on_the_command_line() -> None:
    error = RuntimeFailure("out of memory", allowed="less", fix="choose a smaller batch or another variant")
    assert line_from_error(error) == "out of memory; allowed: less; fix: choose a smaller --batch or another --variant"
    assert "fix: choose a smaller batch" in str(error)


@pytest.mark.parametrize("words", FLAGS)
def test_every_phrase_is_one_that_the_library_says(words: str) -> None:
    assert any(words in re.sub(r'"\s*f?"', "", text) for text in LIBRARY.values())


def test_every_flag_exists() -> None:
    offered = "".join(path.read_text(encoding="utf-8") for path in Path(vidrisk.cli.__file__).parent.glob("*.py"))
    by_name = {f"--{name.replace('_', '-')}" for name in re.findall(r"^    (\w+): ", offered, re.MULTILINE)}
    by_name |= set(re.findall(r'"(--[\w-]+)"', offered))
    assert set(re.findall(r"--[a-z][\w-]+", " ".join(FLAGS.values()))) <= by_name
