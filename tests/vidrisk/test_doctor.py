from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest

from vidrisk.doctor import EXTRAS, examine

Disk = namedtuple("Disk", "total used free")


def test_everything_is_looked_at_once() -> None:
    checks = examine()
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    assert {"vidrisk", "processor", "disk", "onnxruntime", "PyAV", "Pillow"} <= set(names)
    assert {package for package, _, _ in EXTRAS.values()} <= set(names)
    assert all(check.found for check in checks)
    assert all(check.fix for check in checks if check.state != "ok")


def test_json_and_table_tell_the_same(cli: Callable[..., Any]) -> None:
    told, table = cli("doctor", "--json"), cli("doctor")
    assert (told.code, table.code) == (0, 0)
    checks = json.loads(told.stdout)
    assert all(set(check) == {"name", "state", "found", "fix"} for check in checks)
    assert all(check["name"].split()[0] in table.stdout for check in checks)


def test_a_full_disk_is_missing_space(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidrisk.doctor.shutil.disk_usage", lambda path: Disk(1, 1, 1000))
    end = cli("doctor", "--json")
    disk = next(check for check in json.loads(end.stdout) if check["name"] == "disk")
    assert end.code == 1 and disk["state"] == "missing" and "free some space" in disk["fix"]
