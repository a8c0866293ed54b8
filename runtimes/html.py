"""Templates for single-file HTML pages that display untrusted names safely and run only their own scripts."""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

# Controls of the Unicode bidirectional algorithm (UAX 9): they reorder the text beside them, which can disguise a name.
BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
KEPT_CONTROLS = frozenset("\t\n")


def page_environment(folder: Path) -> jinja2.Environment:
    """Return an environment for the templates in ``folder``.

    All values are escaped and passed through ``visible_text``. ``inline(name)`` returns a style sheet or script beside
    the templates, and ``digest_of(name)`` its source expression for a Content-Security-Policy, which makes
    ``'unsafe-inline'`` unnecessary.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )

    def inline(name: str) -> Markup:
        return Markup((folder / name).read_text(encoding="utf-8"))

    environment.globals |= {"inline": inline, "digest_of": lambda name: Markup(csp_digest(str(inline(name))))}
    return environment


def csp_digest(text: str) -> str:
    """Return the source expression of an inline style sheet or script (CSP level 3, 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def visible_text(text: str) -> str:
    r"""Escape characters that HTML forbids or that are invisible: ``\x07``, ``\u202e``. Line breaks and tabs stay."""
    return "".join(_escape(character) if _is_hidden(character) else character for character in text)


def _visible(value: Any) -> Any:
    return visible_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _is_hidden(character: str) -> bool:
    if character in BIDI_CONTROLS:
        return True
    code = ord(character)
    is_noncharacter = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    return is_noncharacter or (unicodedata.category(character) in ("Cc", "Zl", "Zp") and character not in KEPT_CONTROLS)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
