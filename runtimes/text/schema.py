"""JSON schemas: check that a schema bounds the length of an answer, and constrain tokens to it.

A grammar bounds the form of an answer but not its length: a model may fill any budget with spaces between two tokens or
with one string. Free whitespace is therefore not allowed, and a schema with an unbounded string, array or number is
refused. Grammars are compiled by llguidance (https://github.com/guidance-ai/llguidance, MIT).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import RuntimeFailure, SettingsError, require

MOST_BYTES, MOST_DEPTH = 2**18, 16
MOST_CHARACTERS, MOST_ITEMS = 8192, 256
MOST_KEPT = 64  # compiled grammars
NOTES = {"title", "description", "examples", "default", "$schema", "$id"}
KEYWORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
    "integer": {"minimum", "maximum"},
    "boolean": set[str](),
    "null": set[str](),
}
ALLOWED = (
    "enum, const, boolean, null, string with maxLength, integer with minimum and maximum, array with maxItems, object, "
    "anyOf"
)


def check_schema(schema: Mapping[str, Any]) -> None:
    """Refuse a schema that is invalid or does not bound the answer.

    Raises:
        SettingsError: the schema is refused; the message names the place.
    """
    try:
        size = len(json.dumps(schema, ensure_ascii=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise SettingsError(f"the schema is not JSON: {error}", allowed="a JSON schema") from error
    if size > MOST_BYTES:
        raise SettingsError(f"the schema has {size} bytes", allowed=f"at most {MOST_BYTES}")
    _check_part(schema, "schema", 0)


def schema_with_value(schema: Mapping[str, Any], name: str, value: str) -> dict[str, Any]:
    """Return an object schema with one property fixed to a value, such as the level found by a classifier.

    Raises:
        SettingsError: there is no such property, or it cannot have the value.
    """
    properties = schema.get("properties", {})
    _check(name in properties, f"the schema has no {name}", _join_names(properties))
    part = properties[name]
    options = part.get("enum", [part["const"]] if "const" in part else [value])
    _check(value in options, f"{name} is {value!r}", ", ".join(map(str, options)))
    return {**schema, "properties": {**properties, name: {"enum": [value]}}}


def _check_part(part: Any, place: str, depth: int) -> None:
    if not isinstance(part, Mapping) or depth > MOST_DEPTH:
        raise SettingsError(
            f"{place} is not a schema, or nested too deeply", allowed=f"objects in at most {MOST_DEPTH} levels"
        )
    given = set(part) - NOTES
    for choice, is_right in (("enum", _is_enum(part.get("enum"))), ("const", True)):
        if choice in given:
            _check(
                is_right and given <= {choice, "type"},
                f"{place} has {_join_names(given)}",
                f"only {choice}, with a value",
            )
            return
    if "anyOf" in given:
        options = part["anyOf"]
        _check(
            given == {"anyOf"} and _is_list(options) and len(options) > 0,
            f"{place} has {_join_names(given)}",
            "anyOf with options",
        )
        for number, option in enumerate(options):
            _check_part(option, f"{place}.anyOf[{number}]", depth + 1)
        return
    kind = part.get("type")
    _check(isinstance(kind, str) and kind in KEYWORDS, f"{place} is of type {kind!r}", ALLOWED)
    foreign = given - KEYWORDS[str(kind)] - {"type"}
    _check(
        not foreign,
        f"{place} has {_join_names(foreign)}",
        _join_names(KEYWORDS[str(kind)]) or f"nothing besides type {kind}",
    )
    if kind == "string":
        _check_bound(part, "maxLength", MOST_CHARACTERS, place)
    elif kind == "array":
        _check_bound(part, "maxItems", MOST_ITEMS, place)
        _check_part(part.get("items"), f"{place}.items", depth + 1)
    elif kind == "integer":
        ends = part.get("minimum"), part.get("maximum")
        _check(
            all(_is_integer(end) for end in ends) and ends[0] <= ends[1],  # type: ignore[operator]
            f"{place} is from {ends[0]} to {ends[1]}",
            "integers with minimum and maximum",
        )
    elif kind == "object":
        _check_object(part, place, depth)


def _check_object(part: Mapping[str, Any], place: str, depth: int) -> None:
    properties = part.get("properties")
    _check(
        isinstance(properties, Mapping) and len(properties) > 0,
        f"{place} has no properties",
        "an object with properties",
    )
    assert isinstance(properties, Mapping)
    _check(
        part.get("additionalProperties") is False,
        f"{place} allows additional properties",
        "additionalProperties: false",
    )
    required = part.get("required", [])
    _check(
        _is_list(required) and all(isinstance(name, str) and name in properties for name in required),
        f"{place} requires {required}",
        _join_names(properties),
    )
    for name, inner in properties.items():
        _check_part(inner, f"{place}.{name}", depth + 1)


def _check_bound(part: Mapping[str, Any], keyword: str, most: int, place: str) -> None:
    bound = part.get(keyword)
    _check(
        _is_integer(bound) and 0 <= bound <= most,  # type: ignore[operator]
        f"{place} has {keyword} {bound}" if keyword in part else f"{place} has no {keyword}",
        f"{keyword} of 0 to {most}",
    )


def _check(ok: bool, what: str, allowed: str) -> None:
    if not ok:
        raise SettingsError(what, allowed=allowed, fix="correct the schema")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_enum(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) > 0


def _join_names(names: Any) -> str:
    return ", ".join(sorted(map(str, names)))


class Constraint:
    """Constraint of one answer's tokens to JSON of a schema."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary

    @property
    def is_complete(self) -> bool:
        """Whether the answer is complete, so that no token may follow."""
        return bool(self._matcher.is_stopped())

    def compute_mask(self) -> npt.NDArray[np.bool_]:
        """Return for each token of the vocabulary whether it may come next.

        Raises:
            RuntimeFailure: the grammar is too complex at this point.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, count=self._vocabulary, bitorder="little").view(np.bool_)

    def find_forced(self) -> list[int]:
        """Return the tokens that must come next, without consuming them.

        Raises:
            RuntimeFailure: as ``compute_mask``.
        """
        tokens: list[int] = self._matcher.compute_ff_tokens()
        self._check()
        return tokens

    def consume(self, token: int) -> None:
        """Advance the grammar by a token.

        Raises:
            RuntimeFailure: the token is not allowed here.
        """
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RuntimeFailure(
                f"the schema's grammar failed: {self._matcher.get_error()}", fix="make the schema simpler"
            )


class Constrainer:
    """Factory of constraints for a tokenizer; grammars are compiled once per schema.

    Args:
        tokenizer: content of ``tokenizer.json``.
        vocabulary: number of logits of the model.
        ends: ids of the tokens that end a text.

    Raises:
        MissingExtra: llguidance is not installed.
        RuntimeFailure: llguidance does not support the tokenizer.
    """

    def __init__(self, tokenizer: str, vocabulary: int, ends: Sequence[int]) -> None:
        self._guidance: Any = require("llguidance", "text")
        self._vocabulary = vocabulary
        self._known: dict[str, Any] = {}
        try:
            self._tokenizer = self._guidance.LLTokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(ends))
        except Exception as error:  # exceptions from Rust have no common base
            raise RuntimeFailure(
                f"llguidance does not understand the tokenizer: {error}", fix="answer without a schema"
            ) from error

    def constraint(self, schema: Mapping[str, Any]) -> Constraint:
        """Return a constraint for a new answer.

        Raises:
            SettingsError: llguidance refuses the schema.
        """
        key = json.dumps(schema, ensure_ascii=False)  # unsorted: properties keep their order in the answer
        if key not in self._known:
            matching = self._guidance.LLMatcher
            grammar = matching.grammar_from_json_schema(key, overrides={"whitespace_flexible": False})
            matcher = matching(self._tokenizer, grammar, log_level=0)
            if matcher.is_error():
                raise SettingsError(f"no answer can match the schema: {matcher.get_error()}", fix="correct the schema")
            if len(self._known) >= MOST_KEPT:
                del self._known[next(iter(self._known))]
            self._known[key] = matcher
        return Constraint(self._known[key].deep_copy(), self._vocabulary)
