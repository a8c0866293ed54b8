"""Tests of schemes: their content, the words that name a level, and files that are not valid schemes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.data.columns import LEVEL, TEXTS
from vidrisk.data.scheme import Scheme
from vidrisk.data.scheme_file import BUILT_IN, load_scheme, scheme_from_text
from vidrisk.runtimes.contract.errors import DataError, SettingsError, VidriskError

TWO = "name: x\nlevels: [{name: low, severity: 1}, {name: high, severity: 2}]\n"
LEVEL_FIELD = "{name: level, label: level, kind: level}"


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_schemes_survive_json(name: str) -> None:
    scheme = load_scheme(name)
    assert scheme.name == name and scheme_from_text(scheme.to_json(), name) == scheme
    assert hash(scheme.levels) == hash(load_scheme(name).levels)


@pytest.mark.parametrize("name", BUILT_IN)
def test_an_answer_is_bounded_and_its_levels_come_first(name: str) -> None:
    scheme = load_scheme(name)
    schema = scheme.json_schema()
    kinds = ["enum" if "enum" in rule else rule["type"] for rule in schema["properties"].values()]
    assert kinds == sorted(kinds) and kinds[0] == "enum"
    assert all(rule["maxLength"] > 0 for rule in schema["properties"].values() if "enum" not in rule)
    assert schema["required"] == list(schema["properties"]) and schema["additionalProperties"] is False
    json.dumps(schema)


def test_columns_of_the_field_are_known() -> None:
    scheme = load_scheme("three-levels")
    assert {scheme.find_field(column) and scheme.find_field(column).name for column in LEVEL} == {"level"}
    for texts, field in (("risk", "risk"), ("advice", "advice"), ("description", "defect")):
        assert {scheme.find_field(column).name for column in TEXTS[texts]} == {field}


@pytest.mark.parametrize(
    ("scheme", "text", "level"),
    [
        ("three-levels", "严重", "严重"),
        ("three-levels", " Severe ", "严重"),
        ("three-levels", "**中等**。", "中等"),
        ("three-levels", "中 等", "中等"),
        ("three-levels-en", "严重", "severe"),
        ("riskva", "ｄ", "D"),
        ("riskva", "E级", "E"),
        ("riskva", "O", "O"),
        ("three-levels", "D", None),
        ("three-levels", "", None),
        ("three-levels", "不严重", None),
    ],
)
def test_levels_have_several_spellings(scheme: str, text: str, level: str | None) -> None:
    found = load_scheme(scheme).level_from_text(text)
    assert (found and found.name) == level


def test_levels_off_the_scale_have_no_severity() -> None:
    assert [level.name for level in load_scheme("riskva").levels if level.severity is None] == ["R", "O"]


def test_a_level_outside_of_the_scheme_is_named_with_its_row() -> None:
    with pytest.raises(DataError, match=r"risks\.csv, line 3: level is '特急'; allowed: 轻微, 中等, 严重; fix: "):
        load_scheme("three-levels").check_fields({"level": "特急", "risk": "坍塌"}, "risks.csv, line 3")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"risk": "a"}, "level is empty"),
        ({"level": "low", "risk": "  "}, "risk is empty"),
        ({"level": "low", "risk": "a" * 6}, "risk has 6 characters"),
        ({"level": "low", "risk": "a", "part": "roof"}, "part is 'roof'"),
    ],
)
def test_fields_are_checked(values: dict[str, str], said: str) -> None:
    scheme = scheme_from_text(
        TWO + f"fields: [{LEVEL_FIELD[:-1]}, required: true}}, "
        "{name: risk, label: r, required: true, max_chars: 5}, "
        "{name: part, label: p, kind: choice, choices: [wall, beam]}]",
        "s.yaml",
    )
    assert scheme.check_fields({"level": "LOW", "risk": " a b ", "part": "Wall"}, "x") == {
        "level": "low",
        "risk": "a b",
        "part": "wall",
    }
    with pytest.raises(DataError, match=said):
        scheme.check_fields(values, "row 1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "line"),
        ("- 1", "is not a scheme"),
        ("", "is not a scheme"),
        ("\x00", "YAML"),
        ("name: x", "levels"),
        (TWO, "fields"),
        (TWO + "fields: []", "fields"),
        (TWO + "fields: [{name: a, label: a}]", "no field is of the kind level"),
        (TWO + f"fields: [{LEVEL_FIELD}]\nmore: 1", "more"),
        (TWO + f"fields: [{LEVEL_FIELD}, {LEVEL_FIELD}]", "twice"),
        (TWO + f"fields: [{LEVEL_FIELD}, {{name: b, label: LEVEL}}]", "means both"),
        (TWO + f"fields: [{LEVEL_FIELD}, {{name: B, label: b}}]", r"fields\[1\]\.name"),
        (TWO + f"fields: [{LEVEL_FIELD}, {{name: b, label: '【b】'}}]", r"fields\[1\]\.label"),
        (TWO + f"fields: [{LEVEL_FIELD}, {{name: b, label: b, kind: choice}}]", "choices"),
        (TWO + f"fields: [{LEVEL_FIELD}, {{name: b, label: b, max_chars: 0}}]", "max_chars"),
        (TWO + f"fields: [{LEVEL_FIELD}]\ntext_field: b", "text_field"),
        (TWO + f"fields: [{LEVEL_FIELD}]\nprompts: {{text: look}}", "lacks {text}"),
        (TWO + f"fields: [{LEVEL_FIELD}]\nprompts: {{photos: '{{what}}'}}", "contains {what}"),
        (f"name: x\nlevels: [{{name: on}}, {{name: b}}]\nfields: [{LEVEL_FIELD}]", "between quotes"),
        (f"name: x\nlevels: [{{name: a}}]\nfields: [{LEVEL_FIELD}]", "levels"),
        (f"name: x\nlevels: [{{name: a, severity: .nan}}, {{name: b}}]\nfields: [{LEVEL_FIELD}]", "severity"),
        (
            f"name: x\nlevels: [{{name: a, severity: 5}}, {{name: b, severity: 2}}]\nfields: [{LEVEL_FIELD}]",
            "least severe first",
        ),
        (f"name: x\nlevels: [{{name: a, aliases: [b]}}, {{name: b}}]\nfields: [{LEVEL_FIELD}]", "means both"),
        (f"name: x\nlevels: [{{name: a}}, {{name: b, colour: red}}]\nfields: [{LEVEL_FIELD}]", "colour"),
        ("!!python/object/apply:os.system ['true']", "YAML"),
    ],
)
def test_a_file_that_is_no_scheme_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as refused:
        scheme_from_text(text, "s.yaml")
    assert "\n" not in str(refused.value) and str(refused.value).startswith("s.yaml")


def test_a_scheme_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="three-levels, three-levels-en, riskva, or a YAML file"):
        load_scheme(tmp_path / "none.yaml")
    with pytest.raises(DataError, match="cannot be read"):
        load_scheme(tmp_path)
    (tmp_path / "gbk.yaml").write_bytes("name: 等级".encode("gbk"))
    with pytest.raises(DataError, match="UTF-8"):
        load_scheme(tmp_path / "gbk.yaml")


@given(
    st.text(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["name", "levels", "fields", "prompts", "x"]), inner, max_size=5)
        ),
    ).map(json.dumps)
)
def test_any_text_is_a_scheme_or_an_error_of_one_line(text: str) -> None:
    try:
        assert isinstance(scheme_from_text(text, "s.yaml"), Scheme)
    except VidriskError as error:
        assert "\n" not in str(error)
