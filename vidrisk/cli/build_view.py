"""Parsers for the options of ``vidrisk build``, and the table that it prints."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from vidrisk.cli.console import say, say_json, say_table
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.tensorrt.build.engines import EngineReport
from vidrisk.runtimes.tensorrt.cache import Batches


def batches_from_text(text: str) -> Batches:
    """Parse ``MIN,OPT,MAX``.

    Raises:
        SettingsError: ``text`` is not MIN,OPT,MAX.
    """
    numbers = text.split(",")
    if len(numbers) != 3 or not all(number.strip().isdecimal() for number in numbers):
        raise SettingsError(f"--batch {text}", allowed="MIN,OPT,MAX, for example 1,8,64")
    return Batches(*map(int, numbers))


def capabilities_from_text(text: str) -> tuple[str, ...]:
    """Parse compute capabilities; return each once, in order, so equal sets of GPUs give the same engine.

    An empty text gives none.

    Raises:
        SettingsError: ``text`` is not like 8.6,8.9.
    """
    words = {word.strip() for word in text.split(",")} if text else set()
    if not all(re.fullmatch(r"[0-9]{1,2}\.[0-9]", word) for word in words):
        raise SettingsError(f"--compute-capability {text}", allowed="numbers such as 8.6,8.9")
    return tuple(sorted(words, key=float))


def print_engines(engines: Sequence[EngineReport], *, as_json: bool) -> None:
    if as_json:
        say_json(json.dumps([engine.to_dict() for engine in engines], ensure_ascii=False))
        return
    rows = []
    for engine in engines:
        batches = engine.batches
        seconds = "there already" if engine.seconds is None else f"{engine.seconds:.1f}"
        int8 = "–" if engine.int8_layers is None else f"{engine.int8_layers} of {engine.computing_layers}"
        rows.append(
            (
                engine.stage,
                ", ".join(engine.variants),
                f"{batches.min}, {batches.opt}, {batches.max}",
                seconds,
                f"{engine.bytes / 1e6:.1f}",
                int8,
            )
        )
    say_table(("graph", "variant", "batches", "seconds", "MB", "INT8 layers"), rows, right_from=2)
    for folder in dict.fromkeys(engine.path.parent for engine in engines):
        say(f"→ {folder}")
