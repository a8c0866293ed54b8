"""Tests of the layout of text and visual tokens against values worked out by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from vidrisk.models.vlm.layout import Grid, PromptLayout, layout_from_parts
from vidrisk.models.vlm.sequences import batch_from_sequences, sequence_from_parts
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.text.turns import Parts, Photo

ACT = 9


def prompt(*parts: tuple[int, ...] | Grid, reply: tuple[int, ...] = (5, ACT, 6), most: int = 100) -> PromptLayout:
    return layout_from_parts(parts, reply, ACT, most=most, what="the prompt 'Which?'")


def test_text_and_visual_tokens_are_put_in_order() -> None:
    whole = prompt((1, 2), Grid(1, 1, 2), (3,), (4,))
    found = whole.layout
    assert [part if isinstance(part, Grid) else part.tolist() for part in found.parts] == [
        [1, 2],
        Grid(1, 1, 2),
        [3, 4, 5, ACT, 6],
    ]
    assert found.ids.tolist() == [1, 2, -1, -1, 3, 4, 5, ACT, 6] and (found.length, whole.place, whole.reply) == (
        9,
        7,
        3,
    )
    assert (
        found.text.tolist() == [1, 2, 3, 4, 5, ACT, 6]
        and found.is_visual.tolist() == [False] * 2 + [True] * 2 + [False] * 5
    )
    assert (found.leading, found.visual) == (2, 2) and prompt(Grid(1, 1, 2), (3,)).layout.leading == 0
    both = np.array([1, 2, 3, 4, 5, ACT, 6, -10, -20])  # text, then visual tokens
    assert both[found.order].tolist() == [1, 2, -10, -20, 3, 4, 5, ACT, 6]


def test_positions_in_space_and_time_by_hand() -> None:
    """Positions in space and time match values worked out by hand.

    For two moments of 1 x 2 tokens, 2.5 apart, text continues after the longer side, whatever the time.
    """
    found = prompt((1, 2), Grid(2, 1, 2), (3,)).layout.positions(2.5)
    assert found.tolist() == [
        [0, 1, 2, 2, 4, 4, 4, 5, 6, 7],
        [0, 1, 2, 2, 2, 2, 4, 5, 6, 7],
        [0, 1, 2, 3, 2, 3, 4, 5, 6, 7],
    ]


def test_what_follows_the_token_is_left_out() -> None:
    whole = prompt((1,), Grid(1, 2, 2), (3,))
    cut = whole.until_token()
    assert (
        cut.layout.ids.tolist() == [1, -1, -1, -1, -1, 3, 5, ACT]
        and cut.place == cut.layout.length - 1
        and cut.reply == 2
    )
    assert np.array_equal(cut.layout.positions(), whole.layout.positions()[:, :8])
    again = cut.until_token()
    assert again.layout.ids.tolist() == cut.layout.ids.tolist() and (again.place, again.reply) == (cut.place, cut.reply)


def test_a_training_set_takes_less_than_seven_bytes_per_token() -> None:
    """A training set stays small after it has been read once: nothing computed from the ids is kept."""
    ids = np.arange(600)
    parts = Parts((ids[:40], Photo(0), ids[40:150], ids), (False, False, False, True))
    tracemalloc.start()
    try:
        sequences = [sequence_from_parts(parts, Grid(1, 8, 8)) for _ in range(64)]
        for sequence in sequences:
            batch_from_sequences(
                [sequence], torch.zeros((1, 64, 1)), lambda layout: torch.from_numpy(layout.positions())
            )
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / sum(sequence.length for sequence in sequences) < 7  # an id and a role are 5


@pytest.mark.parametrize(
    ("parts", "reply", "said"),
    [
        (((1, ACT),), (5, ACT), "2 times, 1 of them in its reply"),
        (((1,),), (ACT, 5, ACT), "2 times, 2 of them in its reply"),
        (((1,),), (5,), "0 times, 0 of them in its reply"),
        (((1, ACT),), (5,), "1 times, 0 of them in its reply"),
    ],
)
def test_a_token_that_is_not_once_in_the_reply_is_refused(
    parts: tuple[tuple[int, ...]], reply: tuple[int, ...], said: str
) -> None:
    with pytest.raises(
        SettingsError,
        match=rf"^the prompt 'Which\?' holds the model's token {said}; allowed: once, in the reply; "
        r"fix: correct the pair in vlm\.prompts$",
    ):
        prompt(*parts, reply=reply)


def test_a_prompt_that_is_too_long_is_refused_and_never_cut_off() -> None:
    assert prompt((1,), Grid(1, 2, 3), most=10).layout.length == 10
    with pytest.raises(
        SettingsError,
        match=r"takes 10 tokens, 6 of them visual: the model's token would be cut off; allowed: 9 "
        r"tokens; fix: use fewer or smaller frames, or a larger vlm.max_tokens",
    ):
        prompt((1,), Grid(1, 2, 3), most=9)
