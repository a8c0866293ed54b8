"""Where text and visual tokens stand, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from vidrisk.models.vlm.layout import Grid, Layout, layout_from_parts
from vidrisk.runtimes.contract.errors import SettingsError

ACT = 9


def layout(*parts: tuple[int, ...] | Grid, reply: tuple[int, ...] = (5, ACT, 6), most: int = 100) -> Layout:
    return layout_from_parts(parts, reply, ACT, most=most, what="the prompt 'Which?'")


def test_text_and_visual_tokens_are_put_in_order() -> None:
    found = layout((1, 2), Grid(1, 1, 2), (3,), (4,))
    assert found.parts == ((1, 2), Grid(1, 1, 2), (3, 4, 5, ACT, 6))
    assert found.ids.tolist() == [1, 2, -1, -1, 3, 4, 5, ACT, 6] and (found.length, found.place, found.reply) == (9, 7, 3)
    assert found.leading == 2 and layout(Grid(1, 1, 2), (3,)).leading == 0
    both = np.array([1, 2, 3, 4, 5, ACT, 6, -10, -20])  # text, then visual tokens
    assert both[found.order].tolist() == [1, 2, -10, -20, 3, 4, 5, ACT, 6]


def test_positions_in_space_and_time_by_hand() -> None:
    """Two moments of 1 x 2 tokens, 2.5 apart: text goes on behind the longer side, whatever the time."""
    found = layout((1, 2), Grid(2, 1, 2), (3,)).positions(2.5)
    assert found.tolist() == [[0, 1, 2, 2, 4, 4, 4, 5, 6, 7], [0, 1, 2, 2, 2, 2, 4, 5, 6, 7], [0, 1, 2, 3, 2, 3, 4, 5, 6, 7]]


def test_what_follows_the_token_is_left_out() -> None:
    cut = layout((1,), Grid(1, 2, 2), (3,)).until_token()
    assert cut.ids.tolist() == [1, -1, -1, -1, -1, 3, 5, ACT] and cut.place == cut.length - 1 and cut.reply == 2
    assert np.array_equal(cut.positions(), layout((1,), Grid(1, 2, 2), (3,)).positions()[:, :8])
    assert cut.until_token() == cut


@pytest.mark.parametrize(("parts", "reply", "said"), [
    (((1, ACT),), (5, ACT), "2 times, 1 of them in its reply"), (((1,),), (ACT, 5, ACT), "2 times, 2 of them in its reply"),
    (((1,),), (5,), "0 times, 0 of them in its reply"), (((1, ACT),), (5,), "1 times, 0 of them in its reply")])
def test_a_token_that_is_not_once_in_the_reply_is_refused(parts: tuple[tuple[int, ...]], reply: tuple[int, ...], said: str) -> None:
    with pytest.raises(SettingsError, match=rf"^the prompt 'Which\?' holds the model's token {said}; allowed: once, in the reply; "
                                            r"fix: correct the pair in vlm\.prompts$"):
        layout(*parts, reply=reply)


def test_a_prompt_that_is_too_long_is_refused_and_never_cut_off() -> None:
    assert layout((1,), Grid(1, 2, 3), most=10).length == 10
    with pytest.raises(SettingsError, match=r"takes 10 tokens, 6 of them visual: the model's token would be cut off; allowed: 9 "
                                            r"tokens; fix: use fewer or smaller frames, or a larger vlm.max_tokens"):
        layout((1,), Grid(1, 2, 3), most=9)
