"""Tests of schemas: those that bound an answer pass; others are refused with the unbounded place.

Constraints allow exactly the tokens that fit the schema.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_text import END, VOCABULARY

from vidrisk.runtimes.contract.errors import RuntimeFailure, SettingsError
from vidrisk.runtimes.text.schema import check_schema, schema_with_value
from vidrisk.runtimes.text.vocabulary import Vocabulary


def report(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


LEVEL = {"enum": ["轻微", "medium", "high"]}
REPORT = report(
    level=LEVEL,
    advice={"type": "string", "maxLength": 12},
    score={"type": "integer", "minimum": 0, "maximum": 100},
    parts={"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    note={"anyOf": [{"type": "null"}, LEVEL]},
)


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        (report(advice={"type": "string"}), "schema.advice has no maxLength"),
        (report(advice={"type": "string", "maxLength": 10**6}), "maxLength 1000000"),
        (report(advice={"type": "string", "maxLength": True}), "maxLength True"),
        (report(advice={"type": "string", "maxLength": 5, "pattern": "a*"}), "has pattern"),
        (report(parts={"type": "array", "items": LEVEL}), "schema.parts has no maxItems"),
        (
            report(parts={"type": "array", "items": {"type": "string"}, "maxItems": 2}),
            "schema.parts.items has no maxLength",
        ),
        (report(score={"type": "integer", "minimum": 0}), "schema.score is from 0 to None"),
        (report(score={"type": "integer", "minimum": 3, "maximum": 2}), "from 3 to 2"),
        (report(score={"type": "number"}), "of type 'number'"),
        ({"type": "object", "properties": {"a": LEVEL}}, "allows additional properties"),
        ({"type": "object", "additionalProperties": False}, "no properties"),
        ({**REPORT, "required": ["risk"]}, "requires"),
        ({**REPORT, "required": [[1]]}, "requires"),
        (report(note={"anyOf": []}), "anyOf"),
        (report(note={"enum": []}), "enum"),
        (report(note={"$ref": "#"}), "of type None"),
        ([], "not a schema"),
    ],
)
def test_a_schema_that_leaves_the_length_open_is_refused(schema: Any, place: str) -> None:
    with pytest.raises(SettingsError, match=place):
        check_schema(schema)


def test_a_deep_schema_is_refused() -> None:
    schema: dict[str, Any] = LEVEL
    for _ in range(40):
        schema = report(a=schema)
    with pytest.raises(SettingsError, match="deep"):
        check_schema(schema)


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_whatever_a_model_writes_the_answer_fits(vocabulary_of_tests: Vocabulary, seed: int) -> None:
    """Any choice among the allowed tokens produces an answer that fits the schema.

    The simulated model draws every allowed token with the same probability.
    """
    check_schema(REPORT)
    rng = np.random.default_rng(seed)
    constraint = vocabulary_of_tests.constrainer(VOCABULARY).constraint(REPORT)
    written: list[int] = []
    while not constraint.is_complete:
        forced = constraint.find_forced()
        for token in forced or [int(rng.choice(np.flatnonzero(constraint.compute_mask())))]:
            constraint.consume(token)
            written.append(token)
        assert len(written) < 300
    text = vocabulary_of_tests.decode(written)
    answer = json.loads(text)
    assert list(answer) == ["level", "advice", "score", "parts", "note"]
    assert answer["level"] in LEVEL["enum"] and len(answer["advice"]) <= 12 and 0 <= answer["score"] <= 100
    assert " " not in text.replace(json.dumps(answer["advice"], ensure_ascii=False)[1:-1], "")
    assert END not in written


@pytest.fixture(scope="session")
def vocabulary_of_tests(text_folder: Any) -> Vocabulary:
    return Vocabulary(text_folder / "tokenizer.json", [END])


def test_a_level_that_is_given_leaves_the_model_no_other(vocabulary_of_tests: Vocabulary) -> None:
    schema = schema_with_value(REPORT, "level", "high")
    check_schema(schema)
    constraint = vocabulary_of_tests.constrainer(VOCABULARY).constraint(schema)
    assert vocabulary_of_tests.decode(constraint.find_forced()).startswith('{"level":"high","advice":"')
    assert schema_with_value(schema, "level", "high") == schema and REPORT["properties"]["level"] == LEVEL
    assert list(schema["properties"]) == list(REPORT["properties"])
    assert schema_with_value(report(level={"const": "high"}), "level", "high")["properties"]["level"] == {
        "enum": ["high"]
    }
    for name, value, said in (
        ("risk", "high", "the schema has no risk; allowed: advice"),
        ("level", "low", "level is 'low'; allowed: 轻微"),
    ):
        with pytest.raises(SettingsError, match=said):
            schema_with_value(REPORT, name, value)
    with pytest.raises(SettingsError, match="allowed: high"):
        schema_with_value(schema, "level", "medium")


def test_a_token_that_does_not_fit_is_an_error(vocabulary: Vocabulary) -> None:
    constraint = vocabulary.constrainer(VOCABULARY).constraint(REPORT)
    assert vocabulary.decode(constraint.find_forced()) == '{"level":"'
    with pytest.raises(RuntimeFailure, match="grammar"):
        constraint.consume(int(vocabulary.encode("[")[0]))
