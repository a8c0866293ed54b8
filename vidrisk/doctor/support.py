"""Reader of ``known_trouble.json``, which refuses entries that are incomplete or contradict themselves."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from datetime import date
from importlib import resources
from typing import Any, NoReturn, get_args

from vidrisk.doctor.trouble import Machine, Severity, Source, Trouble
from vidrisk.doctor.versions import range_from_text, release_from_version
from vidrisk.runtimes.contract.choices import VARIANTS
from vidrisk.runtimes.contract.errors import VidriskError

TABLE = "known_trouble.json"
MAX_LINE = 200  # characters
SOURCE = re.compile(r"[\w.-]+/[\w.-]+#[0-9]+|https://\S+")
CAPABILITY = re.compile(r"[0-9]{1,2}\.[0-9]")


@functools.cache
def read_table() -> tuple[Trouble, ...]:
    """Return the table that is part of vidrisk."""
    return troubles_from_json(resources.files("vidrisk.doctor").joinpath(TABLE).read_text(encoding="utf-8"))


def troubles_from_json(text: str) -> tuple[Trouble, ...]:
    """Parse a table of known problems.

    Raises:
        VidriskError: an entry is incomplete or contradicts itself; says which, and what is allowed.
    """
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise VidriskError(f"{TABLE} is not JSON: {error}") from error
    if not isinstance(entries, list):
        raise VidriskError(f"{TABLE} is not a list of entries")
    troubles = tuple(_trouble(number, entry) for number, entry in enumerate(entries, start=1))
    seen: set[str] = set()
    for trouble in troubles:
        if trouble.id in seen:
            raise VidriskError(f"{TABLE}: two entries have the id {trouble.id!r}")
        seen.add(trouble.id)
    return troubles


def _trouble(number: int, entry: Any) -> Trouble:
    name = f"entry {number}"
    try:
        if not isinstance(entry, dict):
            raise ValueError("is not an object")
        name = f"entry {entry.get('id') or number}"
        allowed = {each.name for each in fields(Trouble)}
        if unknown := sorted(set(entry) - allowed):
            raise ValueError(f"has the unknown key {unknown[0]!r}; allowed: {', '.join(sorted(allowed))}")
        trouble = Trouble(**dict(_values(entry)))
    except (ValueError, TypeError) as error:
        raise VidriskError(f"{TABLE}: {name} {str(error).replace('Trouble.__init__()', 'is')}") from error
    if trouble.fixed_in and (release_from_version(trouble.fixed_in) is None or trouble.fixed_in in trouble.versions):
        raise VidriskError(
            f"{TABLE}: {name} has fixed_in {trouble.fixed_in}", allowed=f"a version that is not {trouble.versions}"
        )
    return trouble


def _values(entry: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each value as an attribute of ``Trouble``.

    Raises:
        ValueError: a value is not allowed.
    """
    for key, value in entry.items():
        if key == "versions":
            yield key, range_from_text(_text(key, value))
        elif key == "beside":
            yield key, {name: range_from_text(_text(key, text)) for name, text in _of_type(dict, key, value).items()}
        elif key == "sources":
            yield (
                key,
                tuple(_source(each) for each in _of_type(list, key, value)) or _refuse(key, value, "at least one"),
            )
        elif key in ("severity", "machine"):
            yield key, _one_of(get_args(Severity if key == "severity" else Machine), key, value)
        elif key == "variants":
            yield key, tuple(_one_of(VARIANTS, key, each) for each in _of_type(list, key, value))
        elif key == "compute_capabilities":
            yield (
                key,
                tuple(
                    each if CAPABILITY.fullmatch(_text(key, each)) else _refuse(key, each, "a number such as 8.7")
                    for each in _of_type(list, key, value)
                ),
            )
        elif key in ("opt_batch_at_most", "model_mb_at_most"):
            yield key, value if type(value) is int and value > 0 else _refuse(key, value, "a whole number, at least 1")
        elif key == "dla":
            yield key, _of_type(bool, key, value)
        else:
            yield key, _text(key, value)


def _source(value: Any) -> Source:
    if not isinstance(value, dict) or set(value) != {"at", "date"} or not SOURCE.fullmatch(_text("at", value["at"])):
        _refuse("sources", value, '{"at": "owner/repository#1" or an address, "date": "2026-01-31"}')
    try:
        return Source(value["at"], date.fromisoformat(_text("date", value["date"])))
    except ValueError:
        _refuse("date", value["date"], "a date such as 2026-01-31")


def _text(key: str, value: Any) -> str:
    text: str = _of_type(str, key, value)
    return (
        text
        if text.strip() == text != "" and "\n" not in text and len(text) <= MAX_LINE
        else _refuse(key, value, f"one line of 1 to {MAX_LINE} characters")
    )


def _of_type(kind: type, key: str, value: Any) -> Any:
    return value if isinstance(value, kind) else _refuse(key, value, f"a {kind.__name__}")


def _one_of(allowed: Sequence[str], key: str, value: Any) -> Any:
    return value if value in allowed else _refuse(key, value, ", ".join(allowed))


def _refuse(key: str, value: Any, allowed: str) -> NoReturn:
    raise ValueError(f"has {key} {value!r}; allowed: {allowed}")
