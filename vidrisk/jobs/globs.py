"""Expansion of globs that handles deep trees, loops and unreadable folders, as ``**`` walks folders iteratively."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import compress

from vidrisk.files.system_files import is_system_file, is_system_folder
from vidrisk.files.walk import Omitted, walk

ANY_FOLDERS = "**"


def expand_glob(pattern: str) -> Iterator[str | Omitted]:
    """Yield the absolute paths that a pattern matches.

    Without ``**`` these are files and folders, sorted; from ``**`` on only files, in the order of ``walk``. Hidden
    names and names of system files do not match a wildcard.
    """
    names = pattern.split("/")
    if ANY_FOLDERS not in names:
        yield from map(os.path.abspath, _find_matches(pattern))
        return
    at = names.index(ANY_FOLDERS)
    start, rest = "/".join([*names[:at], ""]), [name for name in names[at:] if name]
    if rest[-1] == ANY_FOLDERS:  # everything in them
        rest.append("*")
    for folder in _find_matches(start) if start else ["."]:
        base = os.path.abspath(folder)  # noqa: PTH100 (links stay as they are named)
        prefix = os.path.join(base, "")  # noqa: PTH118
        for item in walk(base):
            if isinstance(item, Omitted):
                yield item
            elif matches(item.path.removeprefix(prefix).split("/"), rest):
                yield item.path


def matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Tell whether a pattern matches a relative path, or a folder on the way to it.

    ``**`` matches any number of folders, including none.
    """
    states = _with_skipped({0}, pattern)  # possible numbers of pattern parts that are used up
    for name in path:
        if len(pattern) in states:
            break
        states = _with_skipped(
            {
                state if pattern[state] == ANY_FOLDERS else state + 1
                for state in states
                if pattern[state] == ANY_FOLDERS or fnmatchcase(name, pattern[state])
            },
            pattern,
        )
    return len(pattern) in states


def _with_skipped(states: set[int], pattern: Sequence[str]) -> set[int]:
    """Return the states, and those behind each ``**`` that matches no folder."""
    found: set[int] = set()
    for first in states:
        state = first
        found.add(state)
        while state < len(pattern) and pattern[state] == ANY_FOLDERS:
            state += 1
            found.add(state)
    return found


def _find_matches(pattern: str) -> Iterator[str]:
    """Yield the matches of a pattern without ``**``, except those whose wildcard matches a system name."""
    is_wild = [glob.has_magic(name) for name in pattern.split("/")]
    for path in sorted(glob.glob(pattern)):  # noqa: PTH207 (Path.glob takes no absolute pattern)
        wild = compress(path.split("/"), is_wild)
        if not any(is_system_folder(name) or is_system_file(name) for name in wild):
            yield path
