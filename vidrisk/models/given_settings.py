"""Settings that the user has chosen, by their dotted names; a search leaves them unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidrisk.runtimes.contract.errors import require


def collect_given_names(
    config: Path | None, assignments: Sequence[str] = (), settings: Iterable[str] = ()
) -> frozenset[str]:
    """Return the names of the settings in a YAML file, in ``key=value`` assignments and in ``settings``.

    The file and the assignments must already have been read without an error.
    """
    yaml: Any = require("yaml", "train")
    loaded = {} if config is None else yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    return frozenset([*_names(loaded, ""), *(each.partition("=")[0].strip() for each in assignments), *settings])


def _names(values: Mapping[str, Any], begin: str) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _names(value, f"{begin}{name}.")
        else:
            yield f"{begin}{name}"
