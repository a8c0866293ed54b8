"""Text of strangers made fit for a terminal, a log or a page: file names, labels, manifests, what an engine says."""

from __future__ import annotations

import unicodedata

# Control characters (ESC begins terminal sequences), format characters (bidi controls turn text round), surrogates
# (bytes of a file name that are no UTF-8), line and paragraph separators.
UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
JOINERS = "\u200c\u200d"  # Persian and Indic words and joined emoji are not written without them


def printable(text: str) -> str:
    """Escape what a terminal would obey or could not show; everything else stays. Repeating it changes nothing.

    A byte of a file name that is no UTF-8 (PEP 383) becomes ``\\xff``, a control character ``\\x1b``, a bidi control
    ``\\u202e``.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _is_printable(character) else _escape(character) for character in text)


def _is_printable(character: str) -> bool:
    return character.isprintable() or character in JOINERS or unicodedata.category(character) not in UNPRINTABLE


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    named = {9: "\\t", 10: "\\n", 13: "\\r"}.get(code)
    return named or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}")
