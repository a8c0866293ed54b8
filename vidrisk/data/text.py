"""Normalizes text for comparison: strings that look the same compare equal."""

from __future__ import annotations

import unicodedata

# Invisible characters in cells, in addition to white space: zero-width space, word joiner, byte order mark,
# direction marks.
INVISIBLE = "\u200b\u2060\ufeff\u200e\u200f"


def nfc(text: str) -> str:
    """Return the composed form (NFC); macOS writes é into file names as e and an accent (NFD)."""
    return unicodedata.normalize("NFC", text)


def trim_text(text: str) -> str:
    """Strip white space (full-width and non-breaking, too) and invisible characters from both ends."""
    before = None
    while before != text:
        before, text = text, text.strip().strip(INVISIBLE)
    return text


def label_from_text(text: str) -> str:
    """Return a label as tables and models store it: composed, without white space around it."""
    return trim_text(nfc(text))
