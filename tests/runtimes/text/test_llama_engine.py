"""Tests of llama.cpp as a text engine with a tiny random model: answers follow the requests, in order.

One test runs llama.cpp as a server of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_text import END, save_causal

from vidrisk.export.text.gguf import export_gguf
from vidrisk.runtimes.contract.errors import BundleError, RuntimeFailure, SettingsError
from vidrisk.runtimes.text.llama_engine import AHEAD, LlamaEngine
from vidrisk.runtimes.text.requests import Answer, Chat, Comparison, Prompt, Request
from vidrisk.runtimes.text.server_engine import KEY_VARIABLE, ServerEngine
from vidrisk.runtimes.text.vocabulary import Vocabulary

llama = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'vidrisk[gguf]'")
MERGES = (("t", "h"), ("Ġ", "c"))
LAST = END + len(MERGES)
ABOVE_ASCII = tuple(range(94, LAST))
LEVELS = ("low", "medium", "high")
SCHEMA = {
    "type": "object",
    "properties": {"level": {"enum": list(LEVELS)}, "advice": {"type": "string", "maxLength": 10}},
    "required": ["level", "advice"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    save_causal(folder, "Llama", MERGES)
    export_gguf(folder, folder / "model.gguf", weights="f32")
    return folder / "model.gguf"


@pytest.fixture(scope="module")
def vocabulary(gguf: Path) -> Vocabulary:
    return Vocabulary(gguf.with_name("tokenizer.json"), [LAST])


@pytest.fixture(scope="module")
def engine(gguf: Path, vocabulary: Vocabulary) -> Iterator[LlamaEngine]:
    with LlamaEngine(gguf, vocabulary, sequences=3, tokens=256, threads=1) as opened:
        yield opened


def asked(vocabulary: Vocabulary, text: str, **settings: Any) -> Request:
    return Request(
        Prompt((vocabulary.encode("You judge risks. "), vocabulary.encode(text)), constant=1),
        **{"limit": 24, "banned": ABOVE_ASCII, **settings},
    )


def test_answers_are_those_of_one_by_one_in_their_order(engine: LlamaEngine, vocabulary: Vocabulary) -> None:
    requests = [
        asked(vocabulary, f"{number} cracks {'x' * (7 * number % 31)}", limit=1 + 13 * number % 40)
        for number in range(11)
    ]
    together = list(engine.answers(requests))
    for request, answer in zip(requests, together, strict=True):
        alone = engine.answer(request)
        assert (alone.text, alone.tokens, alone.finish, alone.prompt_tokens) == (
            answer.text,
            answer.tokens,
            answer.finish,
            request.prompt.tokens,
        )  # type: ignore[union-attr]
        np.testing.assert_allclose(np.array(alone.logprobs, float), np.array(answer.logprobs, float), atol=0.01)
        assert vocabulary.decode(answer.tokens) == answer.text and len(answer.tokens) <= request.limit
    assert len({answer.text for answer in together}) > 5


def test_requests_are_read_only_as_they_are_needed(engine: LlamaEngine, vocabulary: Vocabulary) -> None:
    read = 0

    def many() -> Iterator[Request]:
        nonlocal read
        for _ in range(40):
            read += 1
            yield asked(vocabulary, "a", limit=2)

    answers = engine.answers(many())
    next(answers)
    assert read <= AHEAD * engine.sequences + 1
    assert len(list(answers)) == 39 and read == 40


def test_what_is_drawn_depends_on_the_seed_alone(engine: LlamaEngine, vocabulary: Vocabulary) -> None:
    drawn = [asked(vocabulary, "crack", temperature=1.5, top_k=50, top_p=0.95, seed=seed) for seed in (1, 2, 2**33)]
    first, second = list(engine.answers(drawn)), list(engine.answers(drawn))
    assert [answer.text for answer in first] == [answer.text for answer in second]
    assert len({answer.text for answer in first}) == 3
    assert engine.answer(replace(drawn[0], top_k=1)).tokens == engine.answer(asked(vocabulary, "crack")).tokens


def test_text_ends_before_a_stop_string_and_comes_in_pieces(engine: LlamaEngine, vocabulary: Vocabulary) -> None:
    whole = engine.answer(asked(vocabulary, "crack"))
    assert whole.finish == "length"
    pieces: dict[int, list[str]] = {}
    stop = whole.text[5:8]
    first, second = engine.answers(
        [asked(vocabulary, "crack", stop=(stop,)), asked(vocabulary, "crack")],
        lambda number, text: pieces.setdefault(number, []).append(text),
    )
    assert (first.finish, first.text) == ("stop", whole.text[: whole.text.find(stop)])
    assert ["".join(pieces[number]) for number in (0, 1)] == [first.text, second.text] and len(pieces[1]) > 5


def test_the_end_token_ends_an_answer_and_is_no_part_of_it(engine: LlamaEngine, vocabulary: Vocabulary) -> None:
    everything = tuple(token for token in range(LAST) if token != 40)
    answers = list(
        engine.answers(asked(vocabulary, "crack", temperature=5.0, banned=everything, seed=seed) for seed in range(9))
    )
    stopped = [answer for answer in answers if answer.finish == "stop"]
    assert stopped and all(
        LAST not in answer.tokens and len(answer.tokens) == len(answer.logprobs) < 24 for answer in stopped
    )
    assert all(set(answer.tokens) <= {40, LAST + 1} for answer in answers)


def test_an_answer_by_schema_is_json_or_cut_off(engine: LlamaEngine, vocabulary: Vocabulary) -> None:
    for temperature in (0.0, 1.0):
        answer = engine.answer(asked(vocabulary, "crack", schema=SCHEMA, temperature=temperature, limit=80))
        fields = json.loads(answer.text)
        assert answer.finish == "schema" and fields["level"] in LEVELS and len(fields["advice"]) <= 10
        assert answer.text == json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
        just = replace(asked(vocabulary, "crack", schema=SCHEMA, temperature=temperature), limit=len(answer.tokens))
        assert engine.answer(just).finish == "schema"
        cut = engine.answer(replace(just, limit=just.limit - 1))
        assert (cut.finish, cut.is_whole) == ("length", False)


def test_an_answer_without_json_fails_alone(gguf: Path, vocabulary: Vocabulary) -> None:
    """An answer that is not JSON fails without affecting the next one.

    The test removes the grammar from the request, like a llama.cpp that does not understand grammars.
    """
    with LlamaEngine(gguf, vocabulary, sequences=1, tokens=128, threads=1) as engine:
        server = engine._server

        def unbound(body: dict[str, Any], take: Any) -> None:
            server.handle_completions({key: value for key, value in body.items() if key != "grammar"}, take)

        engine._server = SimpleNamespace(handle_completions=unbound)
        ends_at_once = asked(
            vocabulary, "crack", schema=SCHEMA, temperature=5.0, banned=tuple(range(1, LAST)), limit=100
        )
        first, second = engine.answers([ends_at_once, asked(vocabulary, "crack", limit=2)])
    assert first.finish == "failed" and "which is not JSON" in first.error
    assert second.finish == "length" and not second.error


@pytest.mark.parametrize(
    ("chunk", "said"),
    [
        ({"error": {"message": "no room"}}, "refuses a request: no room"),
        ({"choices": []}, "unexpected response"),
        ("text", "unexpected response"),
        (None, "unexpected response"),
        ({"choices": [{"text": "a", "logprobs": None, "finish_reason": None}]}, "without saying why"),
        (
            {
                "choices": [
                    {"text": "a", "logprobs": {"content": [{"id": 1, "logprob": np.nan}]}, "finish_reason": "stop"}
                ]
            },
            "not finite",
        ),
    ],
)
def test_what_llama_cpp_should_not_say_fails_the_answer(
    gguf: Path, vocabulary: Vocabulary, chunk: Any, said: str
) -> None:
    with LlamaEngine(gguf, vocabulary, sequences=1, tokens=128, threads=1) as engine:
        engine._server = SimpleNamespace(handle_completions=lambda body, take: take(chunk))
        answer = engine.answer(asked(vocabulary, "crack"))
        assert answer.finish == "failed" and said in answer.error

        def broken(body: Any, take: Any) -> None:
            raise OSError("gone")

        engine._server = SimpleNamespace(handle_completions=broken)
        with pytest.raises(RuntimeFailure, match=r"llama\.cpp failed: gone"):
            engine.answer(asked(vocabulary, "crack"))


def test_alternatives_do_not_depend_on_which_is_written(engine: LlamaEngine, vocabulary: Vocabulary) -> None:
    comparison = Comparison('"level":"', LEVELS, until='","')
    found = [
        engine.answer(
            asked(vocabulary, "crack", schema=SCHEMA, limit=80, comparison=comparison, temperature=1.0, seed=seed)
        )
        for seed in range(4)
    ]
    assert len({json.loads(answer.text)["level"] for answer in found}) > 1
    for answer in found:
        assert answer.compared is not None and set(answer.compared) == set(LEVELS)
    shared = [
        {word: value - answer.compared["low"] for word, value in answer.compared.items()}  # type: ignore[index]
        for answer in found
    ]
    for other in shared[1:]:
        assert other == pytest.approx(shared[0], abs=0.05)
    assert engine.answer(asked(vocabulary, "crack", comparison=comparison)).compared is None


def test_requests_that_cannot_be_served_are_refused(engine: LlamaEngine, vocabulary: Vocabulary) -> None:
    ids = vocabulary.encode("crack")
    for prompt, settings, said in (
        (Prompt((ids, np.zeros((2, 64), np.float32))), {}, "visual tokens, which llama.cpp does not accept"),
        (Prompt((ids,)), {"limit": 255}, "256 together"),
        (Prompt((np.array([-1]),)), {}, "token -1"),
        (Prompt((np.array([LAST + 2]),)), {}, f"token {LAST + 2} in a prompt"),
        (Prompt((ids,)), {"banned": (LAST + 2,)}, "is banned"),
        (Chat(({"role": "user", "content": "a"},)), {}, "got a Chat"),
    ):
        with pytest.raises(SettingsError, match=said):
            engine.check(Request(prompt, **{"limit": 8, **settings}))


def test_closing_the_iterator_ends_what_is_at_work(engine: LlamaEngine, vocabulary: Vocabulary) -> None:
    answers = engine.answers(asked(vocabulary, "crack", limit=1 if number == 0 else 230) for number in range(20))
    next(answers)
    begin = time.perf_counter()
    answers.close()  # type: ignore[attr-defined]
    assert time.perf_counter() - begin < 2
    assert engine.answer(asked(vocabulary, "crack", limit=1)).finish == "length"


def test_what_cannot_be_opened_is_refused(gguf: Path, vocabulary: Vocabulary, tmp_path: Path) -> None:
    for sizes in ({"sequences": 0}, {"tokens": 1}):
        with pytest.raises(SettingsError, match="2 tokens or more"):
            LlamaEngine(gguf, vocabulary, **sizes)
    content = gguf.read_bytes()
    for damaged, error, said in (
        (content[:-64], RuntimeFailure, r"llama\.cpp cannot load"),
        (content[:999], BundleError, "not a complete GGUF"),
    ):
        (tmp_path / "damaged.gguf").write_bytes(damaged)
        with pytest.raises(error, match=said):
            LlamaEngine(tmp_path / "damaged.gguf", vocabulary)
    closed = LlamaEngine(gguf, vocabulary, sequences=1, tokens=64, threads=1)
    closed.close()
    closed.close()
    with pytest.raises(RuntimeFailure, match="closed"):
        closed.answer(asked(vocabulary, "crack"))


def test_its_own_server_is_one_for_the_server_engine(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = llama.CommonParams()
    params.model.path, params.model_alias, params.chat_template = str(gguf), {"tiny"}, "chatml"
    params.n_ctx, params.n_parallel, params.verbosity, params.warmup, params.api_keys = 512, 2, -1, False, ["secret"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = llama.Server(params)
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    schema = {**SCHEMA, "properties": {**SCHEMA["properties"], "advice": {"enum": ["wait", "mend"]}}}  # type: ignore[dict-item]
    with ServerEngine(f"{server.listening_address}/v1", "tiny", parallel=2, timeout_s=30) as engine:
        chat, too_long = (Chat(({"role": "user", "content": "A crack. " * times},)) for times in (1, 50))
        answers: list[Answer] = list(
            engine.answers([Request(chat, limit=5), Request(chat, limit=80, schema=schema), Request(too_long, limit=9)])
        )
    assert [answer.finish for answer in answers] == ["length", "schema", "failed"], answers
    assert "exceeds the available context" in answers[2].error
    assert json.loads(answers[1].text)["level"] in LEVELS and answers[0].prompt_tokens > 10
    monkeypatch.setenv(KEY_VARIABLE, "wrong")
    with pytest.raises(RuntimeFailure, match="401"):
        ServerEngine(f"{server.listening_address}/v1", "tiny").answer(Request(chat))
