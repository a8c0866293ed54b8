"""Tests of the only module that prints: text from files cannot move the cursor, act as markup or break JSON."""

from __future__ import annotations

import ast
import io
import json
import logging
import sys
from pathlib import Path

import pytest

import vidrisk.cli
from vidrisk.cli.console import PrintableFormatter, progress_bar, say, say_error, say_json, say_styled, say_table

HOSTILE = "[red]a[/red]\x1b]0;t\x07\x9b2J\u202eb\nc"
SHOWN = "[red]a[/red]\\x1b]0;t\\x07\\x9b2J\\u202eb\\nc"


def test_lines_tables_and_styles(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    say(HOSTILE)
    say_error(HOSTILE)
    say_styled(HOSTILE, "bold")
    say_table(("label", "n"), [(HOSTILE, "1")], title=HOSTILE, right_from=1, last_styles=["red"])
    out, err = capsys.readouterr()
    assert out.count(SHOWN) == 4 and err == f"error: {SHOWN}\n"
    assert not set("\x1b\x07\x9b\u202e") & set(out)


def test_the_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidrisk.cli.console.LINE_EVERY_S", -1.0)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar(lines=True) as advance:
        advance(HOSTILE, 1, 2, HOSTILE)
    assert sys.stderr.getvalue() == f"{SHOWN} 1/2 {SHOWN}\n"  # type: ignore[attr-defined]

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar() as advance:
        advance("[bold]x[/bold]\x9b", 1, 2, "[link]")
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "[bold]x[/bold]\\x9b" in shown and "[link]" in shown and "\x9b" not in shown


@pytest.mark.parametrize(("step_s", "left"), [(2.0, "0:00:24"), (90.0, "0:18:00")])
def test_the_bar_says_how_long_it_takes_yet(monkeypatch: pytest.MonkeyPatch, step_s: float, left: str) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    now_s = 1000.0
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("rich.console.monotonic", lambda: now_s)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar() as advance:
        for done in range(5):
            advance("epoch 1/2", done, 8)
            now_s += step_s
    assert left in sys.stderr.getvalue()  # type: ignore[attr-defined]


def test_the_time_left_is_that_of_all_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr("vidrisk.cli.console.LINE_EVERY_S", -1.0)
    monkeypatch.setattr("rich.console.monotonic", lambda: now_s)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar(lines=True) as advance:
        for epoch in (1, 2):
            for done in range(4):
                advance(f"epoch {epoch}/3", done, 4)
                now_s += 3.0
            advance("validating", 0, 1)
            now_s += 4.0
    lines = sys.stderr.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "epoch 1/3 0/4 " and lines[3] == "epoch 1/3 3/4, 0:00:27 left "
    assert lines[5] == "epoch 2/3 0/4, 0:00:35 left " and lines[4].startswith("validating 0/1")


def test_logs_and_their_tracebacks() -> None:
    formatter = PrintableFormatter("%(levelname)s: %(message)s")
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        record = logging.LogRecord("a", logging.WARNING, "", 0, "%s", (HOSTILE,), sys.exc_info())
    lines = formatter.format(record).splitlines()
    assert lines[0] == f"WARNING: {SHOWN}" and lines[1] == "Traceback (most recent call last):"
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "latin-1", "ascii", "gbk", "cp1252", "big5"])
def test_json_says_the_same_on_every_console(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    value = {"裂缝 😀 é": [HOSTILE, "\udcff", '\\ " /', 1.5]}
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))  # strict: what it lacks would raise
    say_json(json.dumps(value, ensure_ascii=False, indent=2))
    sys.stdout.flush()
    text = raw.getvalue().decode(encoding)
    assert json.loads(text) == value
    assert not set("\x1b\x07\x9b\u202e") & set(text) and ("裂缝" in text) == (
        encoding.lower().replace("-", "") == "utf8"
    )


def test_nothing_else_in_the_command_line_prints() -> None:
    """No other module of the command line prints.

    A view that printed by itself would need all of the safeguards tested above.
    """
    for path in Path(vidrisk.cli.__file__).parent.glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        called = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
        printing = ("print", "typer.echo", "typer.secho", "Table")
        forbidden = {name for name in called if name in printing or name.endswith("console.print")}
        assert not forbidden or path.name == "console.py", (path.name, forbidden)
