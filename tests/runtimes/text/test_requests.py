"""Tests of requests and of the fake engine.

Requests are checked before any engine receives them. The fake engine follows the common engine interface.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.text.engine import FakeTextEngine
from vidrisk.runtimes.text.requests import Answer, Chat, Comparison, Prompt, Request

IDS = np.array([1, 2], np.int64)
PROMPT = Prompt((IDS,))
ENUM = {"enum": ["a"]}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"limit": 0}, "limit 0"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"stop": ("",)}, "stop"),
        ({"stop": tuple(map(str, range(17)))}, "16 strings"),
        ({"banned": (-2,)}, "banned -2"),
        ({"schema": {"type": "string"}}, "maxLength"),
        ({"schema": ENUM, "stop": ("a",)}, "together with a schema"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Request(PROMPT, **settings)


@pytest.mark.parametrize(
    ("parts", "constant", "said"),
    [
        ((), 0, "0 tokens"),
        ((np.zeros(3, np.float32),), 0, r"float32\[3\]"),
        ((np.zeros(3, np.int32),), 0, "int32"),
        ((IDS,), 2, "2 constant parts of 1"),
        ((np.zeros((2**17 + 1, 1), np.float32),), 0, "131073 tokens"),
    ],
)
def test_prompts_that_make_no_sense_are_refused(parts: tuple[np.ndarray, ...], constant: int, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Prompt(parts, constant)


@pytest.mark.parametrize(
    "arguments", [("", ("a", "b")), ("x", ("a",)), ("x", ("a", "a")), ("x", ("a", "")), ("x", ("a", "b"), "")]
)
def test_comparisons_that_make_no_sense_are_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(SettingsError, match="allowed"):
        Comparison(*arguments)


def test_a_chat_has_messages_with_roles() -> None:
    with pytest.raises(SettingsError, match="role"):
        Chat(({"content": "hello"},))


def test_the_fake_engine_answers_in_order_and_streams() -> None:
    pieces: list[tuple[int, str]] = []
    with FakeTextEngine(lambda request: Answer(f"{request.limit}", "stop")) as engine:
        answers = list(
            engine.answers([Request(PROMPT, limit=limit) for limit in (3, 1, 2)], lambda *piece: pieces.append(piece))
        )
    assert [answer.text for answer in answers] == ["3", "1", "2"]
    assert pieces == [(0, "3"), (1, "1"), (2, "2")]


def test_an_engine_takes_its_own_kind_of_prompt() -> None:
    engine = FakeTextEngine(lambda request: Answer("", "stop"), Chat)
    assert engine.answer(Request(Chat(({"role": "user", "content": "hello"},)))).finish == "stop"
    with pytest.raises(SettingsError, match="got a Prompt; allowed: a Chat"):
        engine.answer(Request(PROMPT))


def test_a_prompt_shows_shapes() -> None:
    assert repr(Prompt((IDS, np.zeros((3, 4), np.float32)), 1)) == "Prompt(ids[2], embeddings[3, 4]; 1 constant)"
