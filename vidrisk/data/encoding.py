"""Decodes the bytes of a manifest; an encoding is detected by evidence or named by the user, never guessed silently."""

from __future__ import annotations

import codecs
import logging
import re
from dataclasses import dataclass

from vidrisk.data.chinese import COMMON, ENOUGH_BITS, chinese_bits, find_words, foreign_run
from vidrisk.runtimes.contract.errors import DataError, SettingsError

log = logging.getLogger(__name__)

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Encodings in which an error message shows a line that is not UTF-8, in this order.
LIKELY = ("gb18030", "big5", "shift_jis", "euc_kr", "cp1252", "cp1251", "koi8_r", "cp1250", "cp850")
SHOWN = 4
MAX_SHOWN_CHARS = 40
FIX = "save it as UTF-8, or name its encoding (--encoding)"
# Seven-bit encodings that would pass as ASCII: ISO-2022 (escape sequences), HZ (pairs between ~{ and ~}).
SEVEN_BITS = re.compile(rb"\x1b[$(][\x20-\x7e]|~\{(?:[\x21-\x77][\x21-\x7e])+~\}")


@dataclass(frozen=True)
class Decoded:
    """Text, and a note if its encoding was detected rather than known; '' otherwise."""

    text: str
    note: str = ""


def text_from_bytes(raw: bytes, name: str, encoding: str | None = None) -> Decoded:
    """Decode a manifest.

    UTF-8, and an encoding that a byte order mark declares, are accepted. GB 18030 is detected, with a warning, if the
    text has enough Chinese words and common characters (see ``chinese``) and no line is UTF-8.

    Args:
        raw: the whole file.
        name: name of the file, for errors.
        encoding: any that Python knows; it is not checked against the evidence.

    Raises:
        DataError: the bytes are not in the named encoding, or in none that is detected.
        SettingsError: an encoding that does not exist.
    """
    if encoding is not None:
        return Decoded(_decode_named(raw, name, encoding))
    for mark, of_mark in MARKS:
        if raw.startswith(mark):
            return Decoded(_strict(raw, name, of_mark))
    if b"\0" in raw:
        raise DataError(
            f"{name} contains zero bytes, like UTF-16 without a byte order mark", fix=f"{FIX}, such as utf-16-le"
        )
    if escape := SEVEN_BITS.search(raw):
        line = raw[: escape.start()].count(b"\n") + 1
        raise DataError(f"{name}, line {line} has the escape sequences of ISO-2022 or HZ", fix=FIX)
    try:
        return Decoded(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return _detect(raw, name)


def _decode_named(raw: bytes, name: str, encoding: str) -> str:
    try:
        codec = codecs.lookup(encoding).name
        b"a".decode(encoding, "ignore")
    except (LookupError, ValueError) as error:
        raise SettingsError(
            f"encoding {encoding!r}",
            allowed="utf-8, utf-16, gb18030, big5, shift_jis, euc-kr, cp1252, cp1251, "
            "koi8-r, and all that Python knows",
        ) from error
    return _strict(raw, name, "utf-8-sig" if codec == "utf-8" else encoding)


def _strict(raw: bytes, name: str, encoding: str) -> str:
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}, line {_line_at(raw, error.start, encoding)} is not {encoding} text: {error.reason}", fix=FIX
        ) from error
    except UnicodeError as error:
        raise DataError(f"{name} is not {encoding} text: {error}", fix=FIX) from error
    return text.removeprefix("\ufeff")


def _line_at(raw: bytes, position: int, encoding: str) -> int:
    return raw[:position].decode(encoding, "ignore").count("\n") + 1


def _detect(raw: bytes, name: str) -> Decoded:
    lines = [(number, line) for number, line in enumerate(raw.splitlines(), start=1) if not line.isascii()]
    other = next((number for number, line in lines if not _is_utf8(line)), None)
    if other is None:  # a character is cut by the end of a line
        raise DataError(f"{name} is neither UTF-8 nor another text", fix=FIX)
    utf8 = [(number, line) for number, line in lines if _is_utf8(line) and not _is_common_gb(line)]
    if utf8:
        number, line = utf8[0]
        raise DataError(
            f"{name} mixes encodings: line {number} reads as UTF-8 ({_show_part(line.decode())}), "
            f"line {other} does not",
            fix=f"correct line {other}, or name the encoding of the whole file",
        )
    try:
        text = raw.decode("gb18030")
    except UnicodeDecodeError:
        text = ""
    if text and chinese_bits(text) >= ENOUGH_BITS:
        foreign = foreign_run(text)
        if foreign is not None:
            at = text[: text.index(foreign)].count("\n") + 1
            raise DataError(
                f"{name} is GB 18030 except for line {at}, which would read {foreign[:MAX_SHOWN_CHARS]!r}",
                fix=f"correct line {at}, or name the encoding of the whole file",
            )
        words = find_words(text)[:3]
        evidence = "words " + ", ".join(words) if words else "common Chinese characters"
        note = f"{name} is read as GB 18030, by its {evidence}"
        log.warning("%s; name the encoding if it is another", note)
        return Decoded(text, note)
    number, line = lines[0]
    readings = "; ".join(f"{encoding}: {reading}" for encoding, reading in _readings(line)) or "no known code page"
    raise DataError(
        f"{name} is not UTF-8, and its encoding cannot be detected; line {number} reads in {readings}", fix=FIX
    )


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_common_gb(line: bytes) -> bool:
    """Return whether a line that is valid UTF-8 may be GB 18030 all the same: 茅 has the bytes of é.

    Its hanzi are then common ones, and none of them stands next to a Latin letter.
    """
    try:
        text = line.decode("gb18030")
    except UnicodeDecodeError:
        return False
    hanzi = {character for character in text if not character.isascii()}
    return hanzi <= COMMON and not re.search(r"[A-Za-z][^\x00-\x7f]|[^\x00-\x7f][A-Za-z]", text)


def _readings(line: bytes) -> list[tuple[str, str]]:
    found = []
    for encoding in LIKELY:
        try:
            text = line.decode(encoding)
        except UnicodeDecodeError:
            continue
        if all(character.isprintable() or character == "\t" for character in text):
            found.append((encoding, _show_part(text)))
    return found[:SHOWN]


def _show_part(text: str) -> str:
    """Return the part of a line around its first non-ASCII character."""
    first = next((i for i, character in enumerate(text) if not character.isascii()), 0)
    start = max(0, first - MAX_SHOWN_CHARS // 2)
    part = " ".join(text[start : start + MAX_SHOWN_CHARS].split())
    return repr(f"{'...' if start else ''}{part}{'...' if len(text) > start + MAX_SHOWN_CHARS else ''}")
