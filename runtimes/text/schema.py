"""JSON by a schema: which schemas bound the length of an answer, and which tokens they allow next.

A grammar bounds the form of an answer and not its length: a model may fill any budget with spaces between two tokens,
or with one string. So there is no free whitespace, and a schema that leaves a string, an array or a number open is
refused. Grammars are llguidance's (https://github.com/guidance-ai/llguidance, MIT).
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
ALLOWED = "enum, const, boolean, null, string with maxLength, integer with minimum and maximum, array with maxItems, object, anyOf"


def check_schema(schema: Mapping[str, Any]) -> None:
    """Refuse a schema that does not bound the answer, or that is no schema.

    Raises:
        SettingsError: as said; the message names the place.
    """
    try:
        size = len(json.dumps(schema, ensure_ascii=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise SettingsError(f"the schema is no JSON: {error}", allowed="a JSON schema") from error
    if size > MOST_BYTES:
        raise SettingsError(f"the schema has {size} bytes", allowed=f"at most {MOST_BYTES}")
    _check_part(schema, "schema", 0)


def schema_with_value(schema: Mapping[str, Any], name: str, value: str) -> dict[str, Any]:
    """Return the schema of an object in which one property can only have this value, such as a level that a classifier has found.

    Raises:
        SettingsError: no such property, or one that cannot have the value.
    """
    properties = schema.get("properties", {})
    _check(name in properties, f"the schema has no {name}", _listed(properties))
    part = properties[name]
    options = part.get("enum", [part["const"]] if "const" in part else [value])
    _check(value in options, f"{name} is {value!r}", ", ".join(map(str, options)))
    return {**schema, "properties": {**properties, name: {"enum": [value]}}}


def _check_part(part: Any, place: str, depth: int) -> None:
    if not isinstance(part, Mapping) or depth > MOST_DEPTH:
        raise SettingsError(
            f"{place} is no schema, or nested too deep", allowed=f"objects, {MOST_DEPTH} levels of them"
        )
    given = set(part) - NOTES
    for choice, is_right in (("enum", _is_enum(part.get("enum"))), ("const", True)):
        if choice in given:
            _check(
                is_right and given <= {choice, "type"}, f"{place} has {_listed(given)}", f"{choice} alone, with a value"
            )
            return
    if "anyOf" in given:
        options = part["anyOf"]
        _check(
            given == {"anyOf"} and _is_list(options) and len(options) > 0,
            f"{place} has {_listed(given)}",
            "anyOf with options",
        )
        for number, option in enumerate(options):
            _check_part(option, f"{place}.anyOf[{number}]", depth + 1)
        return
    kind = part.get("type")
    _check(isinstance(kind, str) and kind in KEYWORDS, f"{place} is of type {kind!r}", ALLOWED)
    foreign = given - KEYWORDS[str(kind)] - {"type"}
    _check(not foreign, f"{place} has {_listed(foreign)}", _listed(KEYWORDS[str(kind)]) or f"nothing beside {kind}")
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
        part.get("additionalProperties") is False, f"{place} allows further properties", "additionalProperties: false"
    )
    required = part.get("required", [])
    _check(
        _is_list(required) and all(isinstance(name, str) and name in properties for name in required),
        f"{place} requires {required}",
        _listed(properties),
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
        raise SettingsError(what, allowed=allowed, fix="mend the schema")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_enum(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) > 0


def _listed(names: Any) -> str:
    return ", ".join(sorted(map(str, names)))


class Constraint:
    """Which tokens may follow, so that the answer becomes JSON of a schema. One answer each."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Whether each token of the vocabulary may come next.

        Raises:
            RuntimeFailure: the grammar is too complex here.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, count=self._vocabulary, bitorder="little").view(np.bool_)

    def forced(self) -> list[int]:
        """Tokens that come next whatever the model thinks; they are not consumed yet.

        Raises:
            RuntimeFailure: as ``allowed``.
        """
        tokens: list[int] = self._matcher.compute_ff_tokens()
        self._check()
        return tokens

    def consume(self, token: int) -> None:
        """Take a token as written.

        Raises:
            RuntimeFailure: it is none that may come next.
        """
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RuntimeFailure(
                f"the schema's grammar failed: {self._matcher.get_error()}", fix="make the schema simpler"
            )


class Constrainer:
    """Makes constraints for a tokenizer; grammars are compiled once for each schema.

    Args:
        tokenizer: content of ``tokenizer.json``.
        vocabulary: logits of the model.
        ends: ids of the tokens that end a text.

    Raises:
        MissingExtra: llguidance is not installed.
        RuntimeFailure: it does not understand the tokenizer.
    """

    def __init__(self, tokenizer: str, vocabulary: int, ends: Sequence[int]) -> None:
        self._guidance: Any = require("llguidance", "text")
        self._vocabulary = vocabulary
        self._known: dict[str, Any] = {}
        try:
            self._tokenizer = self._guidance.LLTokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(ends))
        except Exception as error:  # what Rust raises has no common base
            raise RuntimeFailure(
                f"llguidance does not understand the tokenizer: {error}", fix="answer without a schema"
            ) from error

    def constraint(self, schema: Mapping[str, Any]) -> Constraint:
        """Begin an answer.

        Raises:
            SettingsError: llguidance refuses the schema.
        """
        key = json.dumps(schema, ensure_ascii=False)  # the order of properties is the order of the answer
        if key not in self._known:
            matching = self._guidance.LLMatcher
            grammar = matching.grammar_from_json_schema(key, overrides={"whitespace_flexible": False})
            matcher = matching(self._tokenizer, grammar, log_level=0)
            if matcher.is_error():
                raise SettingsError(f"no answer can have the schema: {matcher.get_error()}", fix="mend the schema")
            if len(self._known) >= MOST_KEPT:
                del self._known[next(iter(self._known))]
            self._known[key] = matcher
        return Constraint(self._known[key].deep_copy(), self._vocabulary)
