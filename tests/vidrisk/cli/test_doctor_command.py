from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from vidrisk.cli.doctor_view import print_checks
from vidrisk.doctor import Check

LONG = "pip install --force-reinstall " + " ".join(f"a-package-with-a-long-name-{number}" for number in range(4))
CHECKS = [
    Check(
        "machine",
        "processor",
        "ok",
        "AMD EPYC, 2 cores; avx2, avx512f, avx512_vnni, avx512_bf16, amx_int8, and some more",
    ),
    Check("machine", "throttling", "ok", "none; 52 °C at the hottest"),
    Check(
        "runtimes",
        "tensorrt",
        "broken",
        "does not load: ImportError: libcudnn.so.9: cannot open shared object file",
        LONG,
    ),
    Check(
        "libraries", "onnxruntime and onnxruntime-gpu", "broken", "are both installed", "pip uninstall -y onnxruntime"
    ),
    Check("extras", "torch", "optional", "not installed (training)", "pip install 'vidrisk[train]'"),
]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that prints checks to a terminal of 80 columns and a given encoding; it returns the text."""

    def show(checks: list[Check], *, encoding: str = "utf-8", color: bool = False) -> str:
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, newline="", errors="replace"))
        for name, value in (("COLUMNS", "80"), ("TERM", "xterm"), ("FORCE_COLOR", "1" if color else "")):
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("NO_COLOR", raising=False)
        print_checks(checks, as_json=False)
        sys.stdout.flush()
        return raw.getvalue().decode(encoding)

    return show


def test_eighty_columns(printed: Callable[..., str]) -> None:
    lines = printed(CHECKS).splitlines()
    assert all(len(line) <= 80 for line in lines if "fix:" not in line)
    assert [line for line in lines if not line.startswith((" ", "✓", "✗", "–", "!"))] == [
        "machine",
        "runtimes",
        "libraries",
        "extras",
        "2 to fix",
    ]
    assert any(line.strip() == f"fix: {LONG}" for line in lines)  # in one piece, to be copied
    assert "– torch               not installed (training): pip install 'vidrisk[train]'" in lines
    assert "✓ throttling          none; 52 °C at the hottest" in lines and "✗ onnxruntime and onnxruntime-gpu" in lines


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_terminals_without_unicode(printed: Callable[..., str], encoding: str) -> None:
    text = printed(CHECKS, encoding=encoding)
    assert "x tensorrt" in text and "+ processor" in text and "- torch" in text


def test_colours_are_for_terminals(printed: Callable[..., str]) -> None:
    assert "\x1b[" in printed(CHECKS, color=True) and "\x1b[" not in printed(CHECKS)


def test_nothing_to_mend(printed: Callable[..., str]) -> None:
    assert printed(CHECKS[:2]).splitlines()[-1] == "nothing to fix"


def test_json_and_list_tell_the_same(cli: Callable[..., Any]) -> None:
    told, shown = cli("doctor", "--json"), cli("doctor")
    checks = json.loads(told.stdout)
    assert all(set(check) == {"section", "name", "state", "found", "fix"} for check in checks)
    assert all(check["name"] in shown.stdout for check in checks)
    red = any(check["state"] in ("broken", "missing") for check in checks)
    assert told.code == shown.code == int(red) and told.stderr == ""
