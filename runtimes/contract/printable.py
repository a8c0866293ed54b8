"""Make untrusted text safe for a terminal, a log or a page: file names, labels, manifests, engine messages."""

from __future__ import annotations

import unicodedata

# Control characters (ESC begins terminal sequences), format characters (bidi controls reorder text), surrogates
# (bytes of a file name that are not UTF-8), line and paragraph separators.
UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
JOINERS = "\u200c\u200d"  # needed for Persian and Indic words and for joined emoji


def printable(text: str) -> str:
    """Escape characters that a terminal would interpret or could not show; keep everything else.

    The function is idempotent. A byte of a file name that is not UTF-8 (PEP 383) becomes ``\\xff``, a control character
    ``\\x1b``, a bidi control ``\\u202e``.
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
