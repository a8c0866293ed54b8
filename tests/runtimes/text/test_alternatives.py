"""Tests of the search for the tokens of an answer that choose between alternatives."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_text import END, write_tokenizer

from vidrisk.runtimes.text.alternatives import find_choice_tokens
from vidrisk.runtimes.text.requests import Comparison
from vidrisk.runtimes.text.vocabulary import Vocabulary

WORDS = ("low", "lower", "high")
MERGES = [("l", "o"), ("lo", "w"), ("h", "i"), ('"', ","), ('",', '"')]


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return Vocabulary(write_tokenizer(tmp_path_factory.mktemp("bytes") / "tokenizer.json"), [END])


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return Vocabulary(
        write_tokenizer(tmp_path_factory.mktemp("merged") / "tokenizer.json", MERGES), [END + len(MERGES)]
    )


def chosen(vocabulary: Vocabulary, text: str, comparison: Comparison) -> str:
    ids = vocabulary.encode(text)
    return vocabulary.decode([int(ids[place]) for place in find_choice_tokens(vocabulary, comparison, text)])


@pytest.mark.parametrize(("word", "from_bytes", "from_merged"), [("high", "high", "high"), ("lower", "er", "er")])
def test_from_the_first_token_that_differs_to_what_follows_all(
    bytewise: Vocabulary, merged: Vocabulary, word: str, from_bytes: str, from_merged: str
) -> None:
    text, two = (
        f'{{"level":"{word}","text":"low"}}',
        Comparison.of_field("level", ("high", "low") if word == "high" else WORDS[:2], is_last=False),
    )
    assert chosen(bytewise, text, two) == from_bytes
    assert chosen(merged, text, two) == from_merged


@pytest.mark.parametrize("word", ['1"', "a\\b", "tab\t", "\u88c2\u7f1d"])
def test_a_word_with_escapes_is_found_in_json(bytewise: Vocabulary, word: str) -> None:
    level = Comparison.of_field('le"vel', (word, "low"), is_last=True)
    text = json.dumps({'le"vel': word}, ensure_ascii=False, separators=(",", ":"))
    assert chosen(bytewise, text, level) == json.dumps(word, ensure_ascii=False)[1:-1]


def test_where_no_alternative_stands_nothing_chooses(bytewise: Vocabulary) -> None:
    level = Comparison.of_field("level", WORDS, is_last=False)
    for text in (
        "",
        "low",
        '{"level":""}',
        '{"level":"lowest","text":"x"}',
        '{"other":"low","text":"x"}',
        '{"level":"low"}',
    ):
        assert not find_choice_tokens(bytewise, level, text)


@given(
    st.lists(st.text('ab",\u4e2d', min_size=1, max_size=4), min_size=2, max_size=5, unique=True),
    st.text(max_size=5),
    st.data(),
)
@settings(deadline=None)
def test_another_word_there_gives_other_tokens(
    merged: Vocabulary, words: list[str], behind: str, data: st.DataObject
) -> None:
    comparison = Comparison("<", tuple(words), until=">")
    word = data.draw(st.sampled_from(words))
    text = f"<{word}>{behind}"
    places = find_choice_tokens(merged, comparison, text)
    ids = merged.encode(text)
    assert places and places.stop <= len(ids)
    before = merged.encode(f"<{word}>")[: places.start]
    assert all(merged.encode(f"<{other}>")[: places.start].tolist() == before.tolist() for other in words)
