"""Tests of the text graph engine: answers keep the order of requests and do not depend on other requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_text import END, VOCABULARY, WIDTH

from vidrisk.runtimes.contract.errors import BundleError, RuntimeFailure, SettingsError
from vidrisk.runtimes.text.graph_engine import AHEAD, GraphEngine
from vidrisk.runtimes.text.prefixes import Prefixes
from vidrisk.runtimes.text.requests import Comparison, Prompt, Request
from vidrisk.runtimes.text.session import TextSession
from vidrisk.runtimes.text.vocabulary import Vocabulary

MakeEngine = Callable[..., GraphEngine]
LEVELS = ("low", "medium", "high")
SCHEMA = {
    "type": "object",
    "properties": {"level": {"enum": list(LEVELS)}, "advice": {"type": "string", "maxLength": 10}},
    "required": ["level", "advice"],
    "additionalProperties": False,
}
QUESTIONS = [f"{number} cracks, 裂缝 {'x' * (7 * number % 31)}" for number in range(11)]


def asked(vocabulary: Vocabulary, question: str, *, context: str = "You judge risks. ", **settings: Any) -> Request:
    visual = np.random.default_rng(len(question)).normal(0, 1, (3, WIDTH)).astype(np.float32)
    prompt = Prompt((vocabulary.encode(context), visual, vocabulary.encode(question)), constant=1)
    return Request(prompt, **{"limit": 24, **settings})


def mixed(vocabulary: Vocabulary) -> list[Request]:
    """Return requests of all kinds, whose answers end at different times."""
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 1.5, "top_p": 0.95, "limit": 40},
        {"schema": SCHEMA, "temperature": 1.0, "limit": 80},
        {"temperature": 1.0, "top_k": 20, "stop": ("a", "e"), "limit": 50},
        {"limit": 1},
    ]
    return [
        asked(vocabulary, question, seed=number, **kinds[number % len(kinds)])
        for number, question in enumerate(QUESTIONS)
    ]


def test_answers_are_those_of_one_by_one_in_their_order(make_engine: MakeEngine, vocabulary: Vocabulary) -> None:
    requests = mixed(vocabulary)
    engine, single = make_engine(sequences=4), make_engine(sequences=1)
    together = list(engine.answers(requests))
    for request, answer in zip(requests, together, strict=True):
        for lone in (single.answer(request), engine.answer(request)):
            assert (lone.text, lone.tokens, lone.finish) == (answer.text, answer.tokens, answer.finish)
            np.testing.assert_allclose(np.array(lone.logprobs, float), np.array(answer.logprobs, float), atol=1e-4)
    assert {answer.finish for answer in together} == {"length", "schema", "stop"}
    assert len({len(answer.tokens) for answer in together}) > 3


def test_requests_are_read_only_as_they_are_needed(make_engine: MakeEngine, vocabulary: Vocabulary) -> None:
    read = 0

    def many() -> Iterator[Request]:
        nonlocal read
        for number in range(100):
            read += 1
            yield asked(vocabulary, "a", limit=60 if number == 0 else 1)

    answers = make_engine(sequences=2).answers(many())
    next(answers)
    assert read <= 2 * AHEAD
    assert len(list(answers)) == 99 and read == 100


def test_a_shared_beginning_is_computed_once(
    make_session: Callable[..., TextSession], vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, prefixes = make_session(), Prefixes()
    read: list[int] = []
    extend = session.extend
    monkeypatch.setattr(
        session, "extend", lambda slot, new, rows=1: (read.append(len(new)), extend(slot, new, rows))[1]
    )
    requests = [asked(vocabulary, question, context="constant " * 5, limit=4) for question in QUESTIONS]
    answers = list(GraphEngine(session, vocabulary, prefixes).answers(requests))
    assert len(prefixes) == 1 and sum(read) == 45 + sum(a.prompt_tokens - 45 for a in answers)
    bare = [replace(each, prompt=Prompt(each.prompt.parts)) for each in requests]  # type: ignore[union-attr]
    assert [each.tokens for each in GraphEngine(session, vocabulary).answers(bare)] == [each.tokens for each in answers]


def test_a_prompt_may_be_constant_to_its_end(make_engine: MakeEngine, vocabulary: Vocabulary) -> None:
    prompt = vocabulary.encode("What is it?")
    engine = make_engine()
    answers = list(engine.answers([Request(Prompt((prompt,), constant=1), limit=8)] * 3))
    bare = engine.answer(Request(Prompt((prompt,)), limit=8))
    assert answers[0] == answers[1] == answers[2] and bare.tokens == answers[0].tokens


def test_old_beginnings_make_room_for_new_ones() -> None:
    prefixes, one = Prefixes(most_bytes=800), np.zeros(100, np.float32)
    for key in "abc":
        prefixes.keep(key, one)
        prefixes.find("a")
    assert [prefixes.find(key) is not None for key in "abc"] == [True, False, True]
    prefixes.keep("large", np.zeros(1000, np.float32))
    assert prefixes.find("large") is None and len(prefixes) == 2


def test_an_answer_by_schema_is_json_and_its_forced_tokens_are_read_at_once(
    make_session: Callable[..., TextSession], vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session()
    steps = 0
    step = session.step

    def counted(new: np.ndarray) -> np.ndarray:
        nonlocal steps
        steps += 1
        return step(new)

    monkeypatch.setattr(session, "step", counted)
    answer = GraphEngine(session, vocabulary).answer(
        asked(vocabulary, "crack", schema=SCHEMA, temperature=1.0, limit=80)
    )
    fields = json.loads(answer.text)
    assert answer.finish == "schema" and answer.is_whole and fields["level"] in LEVELS and len(fields["advice"]) <= 10
    chosen = [logprob for logprob in answer.logprobs if logprob is not None]
    assert len(chosen) < len(answer.tokens) - 20 and steps <= len(chosen)
    assert all(logprob < 0 for logprob in chosen)


def test_an_answer_that_is_cut_off_says_so(make_engine: MakeEngine, vocabulary: Vocabulary) -> None:
    for limit in range(1, 40, 6):
        for request in (
            asked(vocabulary, "crack", limit=limit),
            asked(vocabulary, "crack", schema=SCHEMA, limit=limit),
        ):
            answer = make_engine(sequences=1).answer(request)
            if answer.finish == "length":
                assert len(answer.tokens) == limit and not answer.is_whole
    assert make_engine().answer(asked(vocabulary, "crack", schema=SCHEMA, limit=20)).finish == "length"


def test_pieces_of_text_come_as_they_are_written(make_engine: MakeEngine, vocabulary: Vocabulary) -> None:
    pieces: dict[int, list[str]] = {}
    requests = mixed(vocabulary)
    answers = list(make_engine().answers(requests, lambda number, text: pieces.setdefault(number, []).append(text)))
    assert ["".join(pieces.get(number, [])) for number in range(len(requests))] == [answer.text for answer in answers]
    assert max(map(len, pieces.values())) > 5


def test_banned_tokens_are_never_written(make_engine: MakeEngine, vocabulary: Vocabulary) -> None:
    engine = make_engine()
    request = asked(vocabulary, "crack", limit=40)
    banned = tuple(sorted(set(engine.answer(request).tokens)))
    assert banned and not set(banned) & set(engine.answer(replace(request, banned=banned)).tokens)


def test_an_answer_that_cannot_be_written_fails_alone(make_engine: MakeEngine, vocabulary: Vocabulary) -> None:
    brace = int(vocabulary.encode("{")[0])
    levels = tuple(vocabulary.encode("lmh").tolist())
    requests = [
        asked(vocabulary, "crack", schema=SCHEMA, banned=(brace,)),
        asked(vocabulary, "crack"),
        asked(vocabulary, "crack", schema=SCHEMA, banned=levels),
    ]
    first, second, third = make_engine().answers(requests)
    assert (first.finish, second.finish, third.finish) == ("failed", "length", "failed")
    assert "banned" in first.error and "banned" in third.error and not second.error


def test_logits_that_are_not_finite_fail_the_answer(
    make_engine: MakeEngine, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    monkeypatch.setattr(
        engine.session, "extend", lambda slot, new, rows=1: np.full((rows, VOCABULARY), np.nan, np.float32)
    )
    answer = engine.answer(Request(Prompt((vocabulary.encode("a"),)), limit=9))
    assert answer.finish == "failed" and "not finite" in answer.error


def test_alternatives_are_as_probable_as_the_model_says(make_engine: MakeEngine, vocabulary: Vocabulary) -> None:
    engine = make_engine()
    comparison = Comparison('"level":"', LEVELS)
    requests = [
        asked(vocabulary, question, schema=SCHEMA, limit=80, comparison=comparison) for question in QUESTIONS[:6]
    ]
    for request, answer in zip(requests, list(engine.answers(requests)), strict=True):
        assert answer.compared is not None
        for word in LEVELS:
            assert answer.compared[word] == pytest.approx(
                log_probability_of(engine, request, '{"level":"', f'{word}"'), abs=1e-3
            )
    assert engine.answer(asked(vocabulary, "crack", comparison=comparison)).compared is None  # there is no such place


def test_alternatives_with_escapes_keep_their_plain_names(make_engine: MakeEngine, vocabulary: Vocabulary) -> None:
    engine = make_engine()
    words = ('1"', "a\\b")
    schema = {
        "type": "object",
        "properties": {"level": {"enum": words}},
        "required": ["level"],
        "additionalProperties": False,
    }
    request = asked(
        vocabulary, "crack", schema=schema, limit=80, comparison=Comparison.of_field("level", words, is_last=True)
    )
    answer = engine.answer(request)
    assert (
        json.loads(answer.text)["level"] in words and answer.compared is not None and set(answer.compared) == set(words)
    )
    for word in words:
        expected = log_probability_of(engine, request, '{"level":"', json.dumps(word)[1:] + "}")
        assert answer.compared[word] == pytest.approx(expected, abs=1e-3)


def log_probability_of(engine: GraphEngine, request: Request, before: str, word: str) -> float:
    session, parts = engine.session, request.prompt.parts  # type: ignore[union-attr]
    ids = engine.vocabulary.encode(before + word)
    every = np.concatenate([*(session.embed(part) if part.ndim == 1 else part for part in parts), session.embed(ids)])
    session.truncate(0, 0)
    logits = session.extend(0, every, rows=len(ids) + 1)[:-1].astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return float(logprobs[np.arange(len(ids)), ids][-len(word) :].sum())


def test_requests_that_cannot_be_served_are_refused(make_engine: MakeEngine, vocabulary: Vocabulary) -> None:
    engine = make_engine(tokens=64)
    ids = vocabulary.encode("crack")
    for prompt, settings, said in (
        (Prompt((ids,)), {"limit": 60}, "64 together"),
        (Prompt((np.array([VOCABULARY]),)), {}, f"token {VOCABULARY}"),
        (Prompt((np.array([-1]),)), {}, "token -1"),
        (Prompt((np.zeros((2, WIDTH + 1), np.float32),)), {}, f"width {WIDTH}"),
        (Prompt((np.full((2, WIDTH), np.nan, np.float32),)), {}, "finite"),
        (Prompt((ids,)), {"banned": (VOCABULARY,)}, "is banned"),
    ):
        with pytest.raises(SettingsError, match=said):
            engine.check(Request(prompt, **{"limit": 8, **settings}))


def test_one_caller_at_a_time(make_engine: MakeEngine, vocabulary: Vocabulary) -> None:
    engine = make_engine()
    request = asked(vocabulary, "crack")
    answers = engine.answers([request] * 9)
    first = next(answers)
    with pytest.raises(RuntimeFailure, match="other requests"):
        engine.answer(request)
    answers.close()  # type: ignore[attr-defined]
    assert engine.answer(request) == first
    engine.close()
    with pytest.raises(RuntimeFailure, match="closed"):
        engine.answer(request)


def test_a_tokenizer_of_another_model_is_refused(
    make_session: Callable[..., TextSession], text_folder: Path, tmp_path: Path
) -> None:
    content = json.loads((text_folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"].append({**content["added_tokens"][-1], "id": VOCABULARY, "content": "<more>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BundleError, match=f"{VOCABULARY + 1} tokens"):
        GraphEngine(make_session(), Vocabulary(tmp_path / "tokenizer.json", [END]))


def test_the_end_token_ends_an_answer_and_is_no_part_of_it(make_engine: MakeEngine, vocabulary: Vocabulary) -> None:
    requests = [
        asked(vocabulary, question, temperature=3.0, limit=90, seed=seed) for seed, question in enumerate(QUESTIONS * 4)
    ]
    stopped = [answer for answer in make_engine().answers(requests) if answer.finish == "stop"]
    assert stopped and all(END not in answer.tokens and len(answer.tokens) < 90 for answer in stopped)
