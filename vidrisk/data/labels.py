"""One label per sample: what a cell for a label may hold, and how several labels in it are told from a name with a comma."""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from vidrisk.data.table import first_three
from vidrisk.data.text import label_from_text
from vidrisk.runtimes.contract.errors import DataError

# Between several labels. Names have commas and line breaks too, so these need more to show for it than the others.
SEPARATORS, IN_NAMES = (";；", "|｜", ",，、", "\r\n"), (",，、", "\r\n")
SPREADSHEET_ERRORS = re.compile(r"#(?:REF!|DIV/0!|VALUE!|NAME\?|NUM!|NULL!|SPILL!|CALC!|FIELD!|GETTING_DATA|BLOCKED!|CONNECT!)")
_LIST_WITHOUT_QUOTES = re.compile(r"\[[^\[\]]*[,;，；、][^\[\]]*\]|\{[^{}]*[,;:，；、][^{}]*\}")
FIX = "several labels per sample are not supported: keep the main one in each row, or choose a column that has one"

Cell = tuple[str, str]  # where it is, and its text


def check_labels(cells: Sequence[Cell], what: str, column: str, source: str) -> None:
    """Refuse cells without a label, with a list of them, or with several between separators.

    A label with a separator is several labels, when each of its parts stands alone in another row, or when the same parts
    come in other combinations: in another number, in another order, or, but for commas and line breaks, at all.

    Raises:
        DataError: naming the first lines.
    """
    labels = {text: label_from_text(text) for _, text in cells}
    empty = [where for where, text in cells if not labels[text]]
    if empty:
        raise DataError(f"{source} has rows with an empty {what} ({len(empty)}): {first_three(empty)}",
                        fix=f"fill the column {column!r}, or remove these rows")
    failed = {text for text, label in labels.items() if SPREADSHEET_ERRORS.fullmatch(label)}
    _refuse(cells, failed, f"whose {what} is an error of the spreadsheet", source, "correct these cells: '-x and '=x are texts")
    lists = {text for text, label in labels.items() if _is_list(label)}
    _refuse(cells, lists, f"with a list as {what}", source, FIX)
    _refuse(cells, _several(labels), f"with several labels in the {what}", source, FIX)


def _refuse(cells: Sequence[Cell], wrong: set[str], what: str, source: str, fix: str) -> None:
    found = [f"{where}: {text[:40]!r}" for where, text in cells if text in wrong]
    if found:
        raise DataError(f"{source} has rows {what} ({len(found)}): {first_three(found)}", allowed="one label per sample", fix=fix)


def _is_list(label: str) -> bool:
    """Whether it is a list or an object of JSON, or of Python, which pandas writes, or one without quotes."""
    if not label.startswith(("[", "{", "(")):
        return False
    for parse in (json.loads, ast.literal_eval):
        try:
            return isinstance(parse(label), list | dict | tuple | set)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return _LIST_WITHOUT_QUOTES.fullmatch(label) is not None


def _several(labels: Mapping[str, str]) -> set[str]:
    alone = set(labels.values())
    found: set[str] = set()
    for characters in SEPARATORS:
        parts = {text: _parts(label, characters) for text, label in labels.items()}
        parts = {text: of_text for text, of_text in parts.items() if len(of_text) > 1}
        found |= {text for text, of_text in parts.items() if alone.issuperset(of_text)}
        found |= _recombined(parts, in_names=characters in IN_NAMES)
    return found


def _parts(label: str, characters: str) -> tuple[str, ...]:
    return tuple(part for part in map(label_from_text, re.split(f"[{re.escape(characters)}]", label)) if part)


def _recombined(parts: Mapping[str, tuple[str, ...]], *, in_names: bool) -> set[str]:
    """Cells whose parts come again in others: the same ones in another order, all of them among more, or one with others."""
    with_part: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for of_text in parts.values():
        for part in of_text:
            with_part[part].add(of_text)
    again: set[tuple[str, ...]] = set()
    for own in set(parts.values()):
        rarest = min(own, key=lambda part: len(with_part[part]))
        others = [other for other in with_part[rarest] if other != own and set(own) <= set(other)]
        if others:
            again.update(others, [own])
        elif not in_names and any(len(with_part[part]) > 1 for part in own):
            again.add(own)
    return {text for text, of_text in parts.items() if of_text in again}
