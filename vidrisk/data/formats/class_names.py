"""Reads the names of numbered classes from the files in which data sets keep them; they give the order of the labels.

The files:

    label_map.pbtxt     item { id: 1 name: 'crack' display_name: "Crack" } …,
                        or label { label_id: 1 name: "crack" } … as in AVA
    labels.txt          0:crack, 0 crack, or a name per line, counted from 0
    labels.json         ["crack", …], {"0": "crack"}, {"crack": 0} or {"id2label": {"0": "crack"}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidrisk.data.formats.json_lists import first_character_of, object_of
from vidrisk.data.formats.lists import lines_of, text_of
from vidrisk.data.table import Sample
from vidrisk.data.text import label_from_text
from vidrisk.runtimes.contract.errors import DataError

MAX_BYTES = 16 * 2**20
_NUMBERED = re.compile(r"(\d{1,9})(?:\s*[:,\t]\s*|\s+)(.+)")
_STRING = r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\""
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{1,3})|u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_PLAIN = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"b": b"\b", b"f": b"\f"}
_TOKEN = re.compile(rf"\s*(?:#[^\n]*|([A-Za-z_]\w*)\s*:?|(-?\d+)|({_STRING})|([{{}}])|[,;])")


@dataclass(frozen=True)
class ClassNames:
    """Names by number, and other texts by which data may name a class."""

    source: str
    by_number: Mapping[int, str]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def name_of(self, number: int, where: str) -> str:
        """Return the name of a class.

        Raises:
            DataError: no class has this number.
        """
        if number not in self.by_number:
            numbers = f"{min(self.by_number)} to {max(self.by_number)}"
            raise DataError(
                f"{where}: the class {number} is not in {self.source}",
                allowed=f"its numbers, {numbers}",
                fix="take the names and the data from one source",
            )
        return self.by_number[number]

    @property
    def order(self) -> tuple[str, ...]:
        return tuple(self.by_number[number] for number in sorted(self.by_number))


def read_class_names(path: Path) -> ClassNames:
    """Read a file of names: ``.pbtxt``, ``.json`` or lines.

    Raises:
        DataError: it cannot be read or is none of these; a repeated number or name.
    """
    suffix = path.suffix.lower()
    aliases: dict[str, str] = {}
    if suffix in (".pbtxt", ".pbmap"):
        found, aliases = _from_label_map(text_of(path, MAX_BYTES, "a short list of labels"), path.name)
    elif suffix == ".json":
        found = _from_json(path)
    else:
        found = _from_lines(path)
    names = [label_from_text(name) for _, name in found]
    numbers = [number for number, _ in found]
    if not names or not all(names) or len(set(names)) < len(names) or len(set(numbers)) < len(numbers):
        problem = "names no class" if not all(names) or not names else "has a number or a name twice"
        raise DataError(f"{path.name} {problem}", allowed="every number and every name once")
    return ClassNames(path.name, dict(zip(numbers, names, strict=True)), aliases)


def orders_that_say_something(
    orders: Mapping[str, Sequence[str]], samples: Iterable[Sample]
) -> dict[str, tuple[str, ...]]:
    """Return the orders of labels by target that differ from the default.

    The default of a table is the order by name of the labels that it has; levels have an order of their own.
    """
    used: dict[str, set[str]] = {}
    for sample in samples:
        for target in sample.labels:
            used.setdefault(target, set()).update(sample.labels_of(target))
    return {
        target: tuple(order)
        for target, order in orders.items()
        if target != "level" and target in used and tuple(order) != tuple(sorted(used[target]))
    }


def label_map_text(order: Sequence[str]) -> str:
    """Format a label map; numbers begin at 1, because 0 is the background."""
    return "".join(
        f"item {{\n  id: {number}\n  name: {json.dumps(name, ensure_ascii=False)}\n}}\n"
        for number, name in enumerate(order, start=1)
    )


def _from_label_map(text: str, source: str) -> tuple[list[tuple[int, str]], dict[str, str]]:
    found: list[tuple[int, str]] = []
    aliases: dict[str, str] = {}
    item: dict[str, Any] = {}
    at, depth, key = 0, 0, ""
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise DataError(
                f"{source}, character {at}: {text[at : at + 20]!r}", allowed="item { id: 1 name: 'crack' } …"
            )
        at = match.end()
        word, number, string, brace = match.groups()
        if brace:
            depth += 1 if brace == "{" else -1
            if brace == "{" and depth == 1:
                item = {}
            elif brace == "}" and depth == 0:
                name = item.get("display_name") or item.get("name") or ""
                if "id" not in item:
                    raise DataError(f"{source}: the item {name!r} has no id", allowed="item { id: 1 name: 'crack' }")
                found.append((item["id"], name))
                if item.get("name"):
                    aliases[label_from_text(item["name"])] = label_from_text(name)
        elif word:
            key = word
        elif depth == 1 and key in ("id", "label_id") and number is not None and len(number) < 10:
            item["id"] = int(number)
        elif depth == 1 and key in ("name", "display_name") and string is not None:
            item[key] = _unquote(string, source)
        if depth not in (0, 1, 2):
            raise DataError(f"{source}: unbalanced braces", allowed="item { id: 1 name: 'crack' } …")
    if depth:
        raise DataError(f"{source} has no end", fix="get the file again: it may be cut off")
    return found, aliases


def _unquote(string: str, source: str) -> str:
    try:
        return _ESCAPE.sub(_character, string[1:-1].encode()).decode()
    except UnicodeError as error:
        raise DataError(f"{source}: the text {string[:40]} is not UTF-8", fix="save the file as UTF-8") from error


def _character(match: re.Match[bytes]) -> bytes:
    """Return the bytes of an escape; octal and hexadecimal escapes are bytes of UTF-8."""
    hexadecimal, octal, unicode, plain = match.groups()
    if hexadecimal or octal:
        return bytes([int(hexadecimal, 16) if hexadecimal else int(octal, 8) & 255])
    return chr(int(unicode, 16)).encode() if unicode else _PLAIN.get(plain, plain)


def _from_json(path: Path) -> list[tuple[int, str]]:
    if first_character_of(path) == "[":
        try:
            listed = json.loads(text_of(path, MAX_BYTES, "a short list of labels"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path.name} is not JSON: {error}", fix="get the file again: it may be cut off") from error
        if not all(isinstance(name, str) for name in listed):
            raise DataError(f"{path.name} contains something other than names", allowed='["crack", …]')
        return list(enumerate(listed))
    content = object_of(path)
    if isinstance(content.get("id2label"), dict):
        content = content["id2label"]
    found = []
    for key, value in content.items():
        number, name = (value, key) if isinstance(value, int) and not isinstance(value, bool) else (key, value)
        if not re.fullmatch(r"\d{1,9}", str(number)) or not isinstance(name, str):
            raise DataError(
                f"{path.name} has {key[:40]!r}: {str(value)[:40]!r}", allowed='{"0": "crack"} or {"crack": 0}'
            )
        found.append((int(number), name))
    return found


def _from_lines(path: Path) -> list[tuple[int, str]]:
    lines = [line for _, line in lines_of(path)]
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if lines and all(numbered):
        return [(int(match[1]), match[2]) for match in numbered if match]
    return list(enumerate(lines))
