"""Conversion of file names, which are bytes, to and from text: on disk, between processes, and in tables.

Inside a process a path is the ``str`` that Python decodes from its bytes with the encoding of the locale, using
surrogates for bytes that cannot be decoded (PEP 383). That text differs between locales. What is stored or sent is the
same everywhere: the bytes decoded as UTF-8, with surrogates for those that are not UTF-8. If the locale is UTF-8, which
it always is below the command line, the two are equal.
"""

from __future__ import annotations

import locale
import os
from collections.abc import Iterable
from pathlib import Path

MAX_PATH_BYTES = 4096  # PATH_MAX of Linux: the limit for a path in one system call


def stored_from_path(path: str) -> str:
    """Return the text of a path's bytes in a form that does not depend on the locale.

    Raises:
        UnicodeEncodeError: it holds characters that no file name of this locale can have.
    """
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "surrogateescape")


def path_from_stored(stored: str) -> str:
    """Return the path that ``stored_from_path`` converted, in any locale."""
    return stored if stored.isascii() else os.fsdecode(stored.encode("utf-8", "surrogateescape"))


def why_no_path(path: str) -> str:
    """Return why no file can have this name in this locale, or '' if one can."""
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
    """Tell whether UTF-8 can hold all texts: none is a path with bytes that are not UTF-8."""
    try:
        return all(text.encode() is not None for text in texts)
    except UnicodeEncodeError:
        return False


def path_from_written(root: Path, written: str) -> Path:
    """Return the file below ``root`` that a table names in characters.

    The bytes of its name are UTF-8, or else in the locale's encoding.

    Returns:
        If neither file exists, the path in UTF-8.
    """
    paths = [root / os.fsdecode(name) for name in _encode(written)]
    return next((path for path in paths if os.path.lexists(path)), paths[0])


def _encode(written: str) -> list[bytes]:
    name = written.encode("utf-8", "surrogateescape")
    try:
        return [name, written.encode(locale_encoding())]
    except (UnicodeEncodeError, LookupError):
        return [name]


def locale_encoding() -> str:
    """Return the encoding of the user's environment, even if Python itself runs in UTF-8 mode."""
    return locale.nl_langinfo(locale.CODESET) if hasattr(locale, "nl_langinfo") else locale.getpreferredencoding(False)
