"""Answers of a report model: writes fields as the text to train on, and parses and checks the text that a model writes.

The canonical answer is JSON on one line, without spaces, in the order of the scheme's JSON Schema. Labelled lines are
the style of older data: ``【风险等级】：严重`` or ``**risk level**: severe``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vidrisk.data.report_prompts import Style, format_labelled_line
from vidrisk.data.scheme import Scheme, fold_name, problem_of
from vidrisk.data.text import label_from_text, trim_text

MAX_ANSWER_CHARS = 200_000
MAX_SHOWN = 40
_BREAK = re.compile(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
FENCE = "```"
_BULLET = r"^[ \t>]*(?:[-*•·][ \t]+|[0-9]{1,2}[.、)）][ \t]*|#{1,6}[ \t]+)?"
_DECORATED = r"(?:【(?P<brackets>[^】\n]{1,60})】|\*\*(?P<bold>[^*\n]{1,60})\*\*)"
_PLAIN = r"(?P<plain>[^\s:：【】*\[\]\"{}][^:：\n【】*\[\]\"{}]{0,59})(?=[:：])"
_COLON = r"[ \t]*[:：]?[ \t]*"
_AT_START = re.compile(f"{_BULLET}(?:{_DECORATED}|{_PLAIN}){_COLON}", re.MULTILINE)
_ANYWHERE = re.compile(f"{_DECORATED}{_COLON}")
_PAIR = re.compile(r'"((?:[^"\\\n]|\\.){1,80})"\s*:\s*"((?:[^"\\]|\\.)*)"')

_Pairs = list[tuple[str, Any]]


@dataclass(frozen=True)
class ParsedAnswer:
    """Fields parsed from an answer.

    Attributes:
        fields: values of all fields by name, in the order of the scheme; '' if a value is missing or not allowed.
        parse_ok: every required field is present, every value is allowed, and nothing is cut off or contradictory.
        problems: what was wrong or had to be guessed, one line each; a usable answer may have some, too.
    """

    fields: dict[str, str]
    parse_ok: bool
    problems: tuple[str, ...] = ()


def answer_from_fields(scheme: Scheme, fields: Mapping[str, str], style: Style = "json") -> str:
    """Write fields as an answer.

    Line breaks in a value become spaces in labelled lines.

    Raises:
        DataError: a value that the scheme does not allow.
    """
    values = scheme.check_fields(fields, "the answer")
    if style == "json":
        return json.dumps(
            {field.name: values[field.name] for field in scheme.answer_fields},
            ensure_ascii=False,
            separators=(",", ":"),
        )
    return "\n".join(
        format_labelled_line(field.label, _BREAK.sub(" ", values[field.name]), style) for field in scheme.fields
    )


def fields_from_answer(scheme: Scheme, text: str) -> ParsedAnswer:
    """Parse an answer in any style.

    Never raises. ``fields_from_answer(s, answer_from_fields(s, x)).fields == x``.

    Fields are recognized by name, label and column, whatever surrounds them: bullets, numbers, 【】, ``**``, half- or
    full-width colons, a code fence, words before and after.
    """
    is_cut = len(text) > MAX_ANSWER_CHARS
    text = text[:MAX_ANSWER_CHARS].replace("\r\n", "\n").replace("\r", "\n")
    body = _without_fence(text.strip())
    problems = [f"it is longer than {MAX_ANSWER_CHARS} characters"] if is_cut else []
    starts_as_json = body.lstrip().startswith(("{", "["))
    pairs: _Pairs | None = _pairs_from_json(scheme, body, problems) if starts_as_json else None
    if not pairs:
        pairs = _pairs_from_lines(scheme, body) or (
            None if starts_as_json else _pairs_from_json(scheme, body, problems)
        )
    if not pairs:
        problems.append("it contains no field of the scheme")
    is_whole = not is_cut and "it is cut off" not in problems
    return _check_pairs(scheme, pairs or [], problems, is_whole)


def _without_fence(text: str) -> str:
    return (text.partition("\n")[2] or text.strip("`")).removesuffix(FENCE) if text.startswith(FENCE) else text


def _check_pairs(scheme: Scheme, pairs: _Pairs, problems: list[str], is_ok: bool) -> ParsedAnswer:
    said: dict[str, str] = {}
    for key, value in pairs:
        field = scheme.find_field(key)
        if field is None:
            problems.append(f"unknown field {key[:MAX_SHOWN]!r}")
            continue
        written = _text_from_json(value)
        if written is None:
            problems.append(f"{field.name} is not text")
            is_ok, written = False, ""
        if field.name not in said:
            said[field.name] = written
        elif label_from_text(said[field.name]) != label_from_text(written):
            problems.append(f"{field.name} occurs twice, with different values; the first one counts")
            is_ok = False
        else:
            problems.append(f"{field.name} occurs twice")
    found = {}
    for field in scheme.fields:
        written = said.get(field.name, "")
        if field.kind != "text" and scheme.value_from_text(field, written) is None:
            written = trim_text(written).partition("\n")[0]  # a remark may follow
        value = scheme.value_from_text(field, written)
        if field.name not in said:
            problems.append(f"{field.name} is missing")
        elif value is None:
            problems.append(problem_of(field, written))
        is_ok = is_ok and value is not None
        found[field.name] = value if value is not None else label_from_text(written) if field.kind == "text" else ""
    return ParsedAnswer(found, is_ok, tuple(problems))


def _text_from_json(value: Any) -> str | None:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "；".join(value)
    return None


def _pairs_from_json(scheme: Scheme, text: str, problems: list[str]) -> _Pairs | None:
    """Return the members of the first JSON object in a text.

    If the object is cut off, return its complete members. Return None if no member is a field of the scheme.
    """
    start = text.find("{")
    if start < 0:
        return None
    try:
        value, end = json.JSONDecoder(object_pairs_hook=_Members, strict=False).raw_decode(text, start)
    except (ValueError, RecursionError):
        pairs: _Pairs = [(_unescape(key), _unescape(value)) for key, value in _PAIR.findall(text[start:])]
        known = [pair for pair in pairs if scheme.find_field(pair[0])]
        if known:
            problems.append("it is cut off")
        return known or None
    if len(value) == 1 and isinstance(value[0][1], _Members) and not scheme.find_field(value[0][0]):
        value = value[0][1]  # {"report": {…}}
    if not any(scheme.find_field(key) for key, _ in value):
        return None
    before, behind = text[:start].strip(" \n\t["), text[end:].strip(" \n\t]`")
    if before or behind:
        problems.append("there is text around it")
    return list(value)


class _Members(list[tuple[str, Any]]):
    """Members of a JSON object, repeated keys included."""


def _unescape(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except (ValueError, RecursionError):
        return text


def _pairs_from_lines(scheme: Scheme, text: str) -> _Pairs:
    at_start = list(_labels(scheme, text, _AT_START))
    if len({name for name, *_ in at_start if scheme.find_field(name)}) < len(scheme.fields):
        anywhere = list(_labels(scheme, text, _ANYWHERE))
        if len(_find_fields(scheme, anywhere)) > len(_find_fields(scheme, at_start)):
            at_start = anywhere
    if not _find_fields(scheme, at_start):
        return []
    ends = [start for _, start, _ in at_start[1:]] + [len(text)]
    return [(name, trim_text(text[behind:end])) for (name, _, behind), end in zip(at_start, ends, strict=True)]


def _find_fields(scheme: Scheme, labels: Iterable[tuple[str, int, int]]) -> set[str]:
    return {field.name for name, *_ in labels if (field := scheme.find_field(name))}


def _labels(scheme: Scheme, text: str, pattern: re.Pattern[str]) -> Iterator[tuple[str, int, int]]:
    """Yield each label with its start and the start of its value.

    A label without brackets or bold must belong to the scheme, because any line may contain a colon.
    """
    for found in pattern.finditer(text):
        groups = found.groupdict()
        decorated = groups["brackets"] or groups["bold"]
        name = (decorated or groups.get("plain") or "").strip(" :：")
        if scheme.find_field(name) or (decorated and fold_name(name) and found[0].rstrip().endswith((":", "："))):
            yield name, found.start(), found.end()
