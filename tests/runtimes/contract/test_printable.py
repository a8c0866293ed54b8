"""Tests that foreign text can be shown anywhere: no control sequence reaches the terminal."""

from __future__ import annotations

import os
import sys

import pytest

from vidrisk.runtimes.contract.errors import VidriskError
from vidrisk.runtimes.contract.printable import JOINERS, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("crack 1.jpg", "crack 1.jpg"),
        ("裂缝\u3000№ 7 – ünï 👨\u200d👩\u200d👧 نامه\u200cای", "裂缝\u3000№ 7 – ünï 👨\u200d👩\u200d👧 نامه\u200cای"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\u2066b\u2069\u200f", "a\\u2066b\\u2069\\u200f"),
        ("a\r\n\tb\u2028c\u0085", "a\\r\\n\\tb\\u2028c\\x85"),
        (os.fsdecode(b"odd \xff") if sys.getfilesystemencoding() == "utf-8" else "odd \udcff", "odd \\xff"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("\x00\x7f", "\\x00\\x7f"),
    ],
)
def test_escapes_what_a_terminal_would_obey(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_any_character_can_be_encoded_and_moves_no_cursor() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    shown = printable(every)
    shown.encode("utf-8")
    assert all(c.isprintable() or c in JOINERS or ord(c) > 127 for c in shown)
    assert not set("\x1b\x07\x9b\u202e\u2028\r\n") & set(shown)


def test_errors_are_printable_in_all_their_parts() -> None:
    error = VidriskError("a\x1b[2J", allowed="b\u202e", fix="c\x9b")
    assert str(error) == "a\\x1b[2J; allowed: b\\u202e; fix: c\\x9b"
    assert (error.what, error.allowed, error.fix) == ("a\\x1b[2J", "b\\u202e", "c\\x9b")
    assert str(VidriskError("an engine\n  says\ttwo lines")) == "an engine says two lines"
