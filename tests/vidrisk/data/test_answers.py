"""Tests of answers: an answer that is written is read back, in every style.

Answers of models are read as far as possible, and their faults are named.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.data.answers import answer_from_fields, fields_from_answer
from vidrisk.data.report_prompts import Style
from vidrisk.data.scheme import ReportField, Scheme
from vidrisk.data.scheme_file import BUILT_IN, load_scheme
from vidrisk.data.text import label_from_text
from vidrisk.runtimes.contract.errors import DataError

SCHEMES = {name: load_scheme(name) for name in BUILT_IN}
ZH, RISKVA = SCHEMES["three-levels"], SCHEMES["riskva"]
FIELDS = {"level": "严重", "defect": "墙体裂缝", "risk": "坍塌", "advice": "立即停工"}
BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
tricky = st.sampled_from(
    [
        "【风险】：",
        "**风险**: ",
        "风险等级：严重",
        '{"level":"轻微"}',
        "```",
        "\\",
        '"',
        "nan",
        "1. ",
        "- ",
        "[x]: ",
        ":",
    ]
)
texts = st.lists(st.text(max_size=12) | tricky, max_size=6).map("".join)


def value_of(scheme: Scheme, field: ReportField, *, lines: bool) -> st.SearchStrategy[str]:
    allowed = scheme.list_allowed_values(field)
    if allowed:
        return st.sampled_from(allowed)
    plain = texts.map(lambda text: label_from_text("".join(" " if lines and c in BREAKS else c for c in text)))
    return plain.map(lambda text: text or "a" * field.required)


@st.composite
def filled(draw: st.DrawFn, *, lines: bool) -> tuple[Scheme, dict[str, str]]:
    scheme = SCHEMES[draw(st.sampled_from(BUILT_IN))]
    return scheme, {field.name: draw(value_of(scheme, field, lines=lines)) for field in scheme.fields}


@given(filled(lines=False))
def test_json_is_read_back(case: tuple[Scheme, dict[str, str]]) -> None:
    scheme, fields = case
    answer = answer_from_fields(scheme, fields)
    parsed = fields_from_answer(scheme, answer)
    assert (parsed.fields, parsed.parse_ok, parsed.problems) == (fields, True, ())
    assert (
        list(json.loads(answer))
        == [field.name for field in scheme.answer_fields]
        == list(scheme.json_schema()["properties"])
    )


@given(filled(lines=True), st.sampled_from(["brackets", "bold"]))
def test_labelled_lines_are_read_back(case: tuple[Scheme, dict[str, str]], style: Style) -> None:
    scheme, fields = case
    parsed = fields_from_answer(scheme, answer_from_fields(scheme, fields, style))
    assert (parsed.fields, parsed.parse_ok, parsed.problems) == (fields, True, ())


@given(
    filled(lines=True),
    st.sampled_from(["【{}】", "**{}**", "{}"]),
    st.sampled_from(["：", ":", " : "]),
    st.sampled_from(["", "- ", "1. ", "> "]),
    st.randoms(),
)
def test_order_colons_and_bullets_do_not_matter(
    case: tuple[Scheme, dict[str, str]], form: str, colon: str, bullet: str, rng: object
) -> None:
    scheme, fields = case
    lines = [f"{bullet}{form.format(field.label)}{colon}{fields[field.name]}" for field in scheme.fields]
    rng.shuffle(lines)  # type: ignore[attr-defined]
    parsed = fields_from_answer(scheme, "\r\n".join(lines))
    assert (parsed.fields, parsed.parse_ok) == (fields, True)


@given(st.text(max_size=300) | texts)
def test_any_text_is_parsed_without_an_exception(text: str) -> None:
    for scheme in SCHEMES.values():
        parsed = fields_from_answer(scheme, text)
        assert list(parsed.fields) == [field.name for field in scheme.fields]
        assert not parsed.parse_ok or scheme.check_fields(parsed.fields, "x") == parsed.fields


def test_a_beginning_of_an_answer_is_never_taken_for_a_whole_one() -> None:
    answer = answer_from_fields(ZH, FIELDS)
    for length in range(len(answer)):
        parsed = fields_from_answer(ZH, answer[:length])
        assert not parsed.parse_ok
        assert all(value in ("", FIELDS[name]) for name, value in parsed.fields.items())


@pytest.mark.parametrize(
    ("text", "fields", "problems"),
    [
        (
            '```json\n{"level": "severe", "risk": "坍塌", "advice": "a", "defect": "b"}\n```',
            {"level": "严重", "risk": "坍塌", "advice": "a", "defect": "b"},
            (),
        ),
        (
            '好的。{"风险等级":"中等","风险":"坍塌","缺陷描述":"","纠正和预防建议":null} 以上。',
            {"level": "中等", "risk": "坍塌"},
            ("text around",),
        ),
        (
            '{"report": {"level": "轻微", "risk": ["a", "b"]}}',
            {"level": "轻微", "risk": "a；b"},
            ("defect is missing",),
        ),
        (
            "【风险】坍塌【风险等级】：轻微。【位置】：屋顶",
            {"level": "轻微", "risk": "坍塌"},
            ("unknown field '位置'",),
        ),
        ("1. **风险描述：** 坍塌\n2. **风险等级**：严重（重度）", {"risk": "坍塌"}, ("level is '严重（重度）'",)),
        ("风险等级：中等\n（请复核）\n风险: a: b\nc", {"level": "中等", "risk": "a: b\nc"}, ("advice is missing",)),
        ("【风险等级】：轻微\n【风险等级】：严重", {"level": "轻微"}, ("with different values",)),
        ("【风险等级】：轻微\n【风险等级】：轻微", {"level": "轻微"}, ("level occurs twice",)),
        ('{"level":"特急"}', {"level": ""}, ("level is '特急'",)),
        ('{"level":{"a":1}}', {"level": ""}, ("level is not text",)),
        ('{"level":"严重","risk":"坍', {"level": "严重", "risk": ""}, ("cut off",)),
        ("无法判断", {"level": ""}, ("no field of the scheme",)),
        ("", {"level": ""}, ("no field",)),
        ("[" * 5000, {"level": ""}, ("no field",)),
        ('{"a":' * 5000, {"level": ""}, ("no field",)),
    ],
)
def test_what_models_write(text: str, fields: Mapping[str, str], problems: tuple[str, ...]) -> None:
    parsed = fields_from_answer(ZH, text)
    assert {name: parsed.fields[name] for name in fields} == fields
    assert all(any(said in problem for problem in parsed.problems) for said in problems)
    bad = ("different values", "level is '", "not text", "cut off", "no field")
    assert parsed.parse_ok == (not any(word in problem for word in bad for problem in parsed.problems))


def test_a_text_that_is_too_long_is_kept_and_named() -> None:
    parsed = fields_from_answer(ZH, json.dumps(FIELDS | {"risk": "塌" * 1000}))
    assert not parsed.parse_ok and len(parsed.fields["risk"]) == 1000 and "risk has 1000 characters" in parsed.problems


def test_only_allowed_values_are_written() -> None:
    with pytest.raises(DataError, match="level is '特急'; allowed: 轻微, 中等, 严重"):
        answer_from_fields(ZH, FIELDS | {"level": "特急"})
    assert answer_from_fields(RISKVA, {"level_before": "d", "risk": "a"}) == (
        '{"level_before":"D","level_now":"","defect":"","risk":"a","advice":""}'
    )


@pytest.mark.parametrize(
    "text",
    [
        " " * 200_000,
        "\n" * 200_000,
        "【" * 200_000,
        "**a" * 60_000,
        '"a":"' * 40_000,
        "{" + '"a": ' * 40_000,
        "`" * 200_000,
        "风险：" * 60_000,
        " " * 100_000 + "```",
        "- " * 100_000,
    ],
)
def test_long_nonsense_is_read_in_little_time(text: str) -> None:
    begun = time.process_time()
    fields_from_answer(ZH, text)
    assert time.process_time() - begun < 5
