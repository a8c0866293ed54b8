"""Tests of the search for members in the modules of a package and of the packages in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidrisk.files.members import members_of_package


def test_members_of_files_and_folders_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "__init__": "",
        "first": "THING = 1",
        "helper": "OTHER = 2",
        "inner/__init__": "",
        "inner/second": "THING = 3",
        "inner/deep/__init__": "",
        "inner/deep/third": "THING = 4",
    }
    for name, text in files.items():
        path = tmp_path / "things_of_a_test" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert members_of_package("things_of_a_test", [str(tmp_path / "things_of_a_test")], "THING") == [1, 4, 3]
