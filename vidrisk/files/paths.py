"""File names are bytes. This is how they become text: on disk, between processes, and in a table that somebody wrote.

Inside a process a path is the ``str`` that Python makes of its bytes, by the encoding of the locale, with surrogates
for bytes that this cannot decode (PEP 383). That text differs between locales. What is stored or sent is the same
everywhere: the bytes read as UTF-8, with surrogates for those that are not. Where the locale is UTF-8, which it is
    below the command line, the two are equal.
"""

from __future__ import annotations

import locale
import os
from collections.abc import Iterable
from pathlib import Path

MAX_PATH_BYTES = 4096  # PATH_MAX of Linux, of what is opened in one go


def stored_from_path(path: str) -> str:
    """Text of a path's bytes that every locale reads alike.

    Raises:
        UnicodeEncodeError: characters that no file name of this locale can have.
    """
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "surrogateescape")


def path_from_stored(stored: str) -> str:
    """The inverse of ``stored_from_path``, in any locale."""
    return stored if stored.isascii() else os.fsdecode(stored.encode("utf-8", "surrogateescape"))


def why_no_path(path: str) -> str:
    """Why no file can be called so, in this locale; empty where one can."""
    try:
        name = os.fsencode(path)
    except UnicodeEncodeError:
        return "its path holds characters that no file name can have"
    if b"\0" in name:
        return "its path holds a null character"
    if len(name) > MAX_PATH_BYTES:
        return f"its path is longer than {MAX_PATH_BYTES} bytes"
    return ""


def is_unicode(texts: Iterable[str]) -> bool:
    """Whether UTF-8 can hold all of them: none is a path with bytes that are none of its characters."""
    try:
        return all(text.encode() is not None for text in texts)
    except UnicodeEncodeError:
        return False


def path_from_written(root: Path, written: str) -> Path:
    """The file below ``root`` that a table names in characters: its bytes are UTF-8, or else of the locale's encoding.

    Returns:
        Where neither exists, the path in UTF-8.
    """
    paths = [root / os.fsdecode(name) for name in _encoded(written)]
    return next((path for path in paths if os.path.lexists(path)), paths[0])


def _encoded(written: str) -> list[bytes]:
    name = written.encode("utf-8", "surrogateescape")
    try:
        return [name, written.encode(locale_encoding())]
    except (UnicodeEncodeError, LookupError):
        return [name]


def locale_encoding() -> str:
    """What the user's environment says, also where Python itself runs in UTF-8 mode."""
    return locale.nl_langinfo(locale.CODESET) if hasattr(locale, "nl_langinfo") else locale.getpreferredencoding(False)
