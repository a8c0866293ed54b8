"""Reads cells of labels, single or multi-label, and tells several labels from a name that contains a comma."""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from vidrisk.data.table import Label, first_three
from vidrisk.data.text import label_from_text
from vidrisk.runtimes.contract.errors import DataError

# Separators between labels. Names have commas and line breaks, too, so these need more evidence than the others.
SEPARATORS, IN_NAMES = (";；", "|｜", ",，、", "\r\n"), (",，、", "\r\n")
SPREADSHEET_ERRORS = re.compile(
    r"#(?:REF!|DIV/0!|VALUE!|NAME\?|NUM!|NULL!|SPILL!|CALC!|FIELD!|GETTING_DATA|BLOCKED!|CONNECT!)"
)
_LIST_WITHOUT_QUOTES = re.compile(r"\[[^\[\]]*[,;，；、][^\[\]]*\]|\{[^{}]*[,;:，；、][^{}]*\}")
FIX = "keep the main one in each row, or read the data as multi-label"
_BETWEEN = ("\r\n", ";；", "|｜", ",，、")  # separators of a multi-label cell: the first of these that any cell has

Cell = tuple[str, str]  # its place and its text


def labels_from_cells(
    cells: Sequence[Cell], what: str, column: str, source: str, *, multi: bool = False
) -> list[Label | None]:
    """Read a column of labels.

    With ``multi``, any number of labels may apply to a sample; a column whose cells are JSON lists of strings is always
    read this way. In errors, ``what`` describes the label, and ``column`` and ``source`` say where it is.

    Returns:
        The label or all labels of each cell; None for an empty cell, which means that the row is not labelled.

    Raises:
        DataError: cells with bad labels (the message names the first lines); no cell has a label.
    """
    filled = [(where, text) for where, text in cells if label_from_text(text)]
    if not filled:
        raise DataError(
            f"{source} has no {what}: the column {column!r} is empty", fix="fill it, or name another column"
        )
    failed = {text for _, text in filled if SPREADSHEET_ERRORS.fullmatch(label_from_text(text))}
    _refuse(
        filled, failed, f"whose {what} is a spreadsheet error", source, "correct these cells: '-x and '=x are texts"
    )
    if not multi and not all(_list_from_json(text) is not None for _, text in filled):
        _check_single(filled, what, source)
        return [label_from_text(text) or None for _, text in cells]
    written = {character for _, text in filled if _list_from_text(text) is None for character in label_from_text(text)}
    between = next((characters for characters in _BETWEEN if written & set(characters)), "")
    return [_labels_of(text, between) if label_from_text(text) else None for _, text in cells]


def _labels_of(text: str, between: str) -> tuple[str, ...]:
    listed = _list_from_text(text)
    if listed is not None:
        return tuple(listed)
    return _parts(label_from_text(text), between) if between else (label_from_text(text),)


def _list_from_json(text: str) -> list[str] | None:
    """Parse a JSON list of strings, or return None if the text is not one."""
    if not label_from_text(text).startswith("["):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return (
        found
        if isinstance(found, list) and all(isinstance(item, str) and label_from_text(item) for item in found)
        else None
    )


def _list_from_text(text: str) -> list[str] | None:
    """Parse a list of strings as JSON or pandas writes it, or return None if the text is not one."""
    listed = _list_from_json(text)
    if listed is not None or not label_from_text(text).startswith(("[", "(", "{")):
        return listed
    try:
        found = ast.literal_eval(label_from_text(text))
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None
    is_list = isinstance(found, list | tuple | set) and all(
        isinstance(item, str) and label_from_text(item) for item in found
    )
    return list(found) if is_list else None


def _check_single(cells: Sequence[Cell], what: str, source: str) -> None:
    """Refuse cells with a list of labels, or with several labels between separators.

    A label with a separator counts as several labels if each of its parts stands alone in another row, or if the same
    parts occur in other combinations: in another number, in another order, or, except for commas and line breaks, at
    all.
    """
    labels = {text: label_from_text(text) for _, text in cells}
    lists = {text for text, label in labels.items() if _is_list(label)}
    _refuse(cells, lists, f"with a list as {what}", source, FIX)
    _refuse(cells, _several(labels), f"with several labels in the {what}", source, FIX)


def _refuse(cells: Sequence[Cell], wrong: set[str], what: str, source: str, fix: str) -> None:
    found = [f"{where}: {text[:40]!r}" for where, text in cells if text in wrong]
    if found:
        raise DataError(
            f"{source} has rows {what} ({len(found)}): {first_three(found)}", allowed="one label per sample", fix=fix
        )


def _is_list(label: str) -> bool:
    """Return whether a label is a JSON or Python list or object (pandas writes those), or a list without quotes."""
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
        found |= _find_recombined(parts, in_names=characters in IN_NAMES)
    return found


def _parts(label: str, characters: str) -> tuple[str, ...]:
    return tuple(part for part in map(label_from_text, re.split(f"[{re.escape(characters)}]", label)) if part)


def _find_recombined(parts: Mapping[str, tuple[str, ...]], *, in_names: bool) -> set[str]:
    """Find cells whose parts occur in other cells.

    These are the same parts in another order, all of them among more, or, unless ``in_names``, one of them with others.
    """
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
