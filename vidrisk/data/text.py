"""Text as it is compared: two strings that look the same are the same."""

from __future__ import annotations

import unicodedata

# Invisible characters that cells bring along beside white space: zero-width space, word joiner, byte order mark,
# direction marks.
INVISIBLE = "\u200b\u2060\ufeff\u200e\u200f"


def nfc(text: str) -> str:
    """The composed form: macOS writes é into file names as e and an accent (NFD)."""
    return unicodedata.normalize("NFC", text)


def trimmed(text: str) -> str:
    """Without white space (full-width and non-breaking too) and invisible characters at both ends."""
    before = None
    while before != text:
        before, text = text, text.strip().strip(INVISIBLE)
    return text


def label_from_text(text: str) -> str:
    """A label as tables and models hold it: composed, without white space around it."""
    return trimmed(nfc(text))
