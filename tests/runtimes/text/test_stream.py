"""Tests of streamed text: the pieces join to the text wherever it is cut, and contain no stop string."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vidrisk.runtimes.text.stream import StopStrings, TokenStream
from vidrisk.runtimes.text.vocabulary import Vocabulary

words = st.text("abc", max_size=30)
stops_of = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)


def bytes_to_text(tokens: list[int]) -> str:
    return bytes(tokens).decode("utf-8", errors="replace")


@settings(max_examples=50)
@given(st.text(max_size=20), st.binary(max_size=6))
def test_pieces_are_the_text_and_hold_whole_characters(text: str, broken: bytes) -> None:
    data = text.encode() + broken
    stream = TokenStream(bytes_to_text)  # type: ignore[arg-type]
    pieces = [stream.push(byte) for byte in data]
    assert all("\ufffd" not in piece for piece in pieces[: len(text.encode())]) or "\ufffd" in text
    assert "".join([*pieces, stream.finish()]) == bytes_to_text(list(data))


def test_chinese_comes_character_by_character(vocabulary: Vocabulary) -> None:
    text = "墙体裂缝 3 cm, 立即停工。"
    stream = TokenStream(vocabulary.decode)
    pieces = [piece for token in vocabulary.encode(text).tolist() if (piece := stream.push(token))]
    assert pieces == list(text)


def first_stop(text: str, stops: list[str]) -> int | None:
    """Return the index at which the text ends, before the stop string that is complete first.

    If several are complete at the same place, the longest one counts. Return None if there is no stop string.
    """
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if end >= len(stop) and text[:end].endswith(stop)]
        if starts:
            return min(starts)
    return None


@given(words, stops_of, st.data())
def test_text_ends_in_front_of_the_first_stop_string_however_it_is_cut(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    watch, left, pieces = StopStrings(stops), text, []
    while left and not watch.is_found:
        size = data.draw(st.integers(1, len(left)))
        pieces.append(watch.push(left[:size]))
        left = left[size:]
        passed = "".join(pieces)
        assert text.startswith(passed) and not any(stop in passed for stop in stops)
    pieces.append(watch.finish())
    end = first_stop(text, stops)
    assert watch.is_found == (end is not None)
    assert "".join(pieces) == text[:end]
    assert watch.push("more") == "" or end is None
