"""What ``vidrisk build`` reads from its options, and the table that it ends with."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vidrisk.export.engines import EngineReport
from vidrisk.runtimes.errors import SettingsError
from vidrisk.runtimes.tensorrt.engines import Batches


def batches_from_text(text: str) -> Batches:
    """
    Raises:
        SettingsError: ``text`` is not MIN,OPT,MAX.
    """
    numbers = text.split(",")
    if len(numbers) != 3 or not all(number.strip().isdecimal() for number in numbers):
        raise SettingsError(f"--batch {text}", allowed="MIN,OPT,MAX, for example 1,8,64")
    return Batches(*map(int, numbers))


def capabilities_from_text(text: str) -> tuple[str, ...]:
    """Each once, in order: whoever names the same GPUs means the same engine. None of them in an empty text.

    Raises:
        SettingsError: ``text`` is not like 8.6,8.9.
    """
    words = {word.strip() for word in text.split(",")} if text else set()
    if not all(re.fullmatch(r"[0-9]{1,2}\.[0-9]", word) for word in words):
        raise SettingsError(f"--compute-capability {text}", allowed="numbers such as 8.6,8.9")
    return tuple(sorted(words, key=float))


def print_engines(engines: Sequence[EngineReport], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([engine.to_dict() for engine in engines], ensure_ascii=False))
        return
    table = Table("graph", "variant")
    for column in ("batches", "seconds", "MB", "INT8 layers"):
        table.add_column(column, justify="right")
    for engine in engines:
        batches = engine.batches
        seconds = "there already" if engine.seconds is None else f"{engine.seconds:.1f}"
        int8 = "–" if engine.int8_layers is None else f"{engine.int8_layers} of {engine.computing_layers}"
        table.add_row(engine.graph, Text(", ".join(engine.variants)), f"{batches.min}, {batches.opt}, {batches.max}", seconds,
                      f"{engine.bytes / 1e6:.1f}", int8)
    Console().print(table)
    for folder in dict.fromkeys(engine.path.parent for engine in engines):
        typer.echo(f"→ {folder}")
