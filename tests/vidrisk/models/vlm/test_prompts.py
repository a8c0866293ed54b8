"""Tests of pairs of question and reply: vidrisk's own pairs, a user's list, and a user's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidrisk.models.config import PromptPair, TrainConfig, config_from_options, write_config
from vidrisk.models.vlm.prompts import prompts_from_settings
from vidrisk.runtimes.contract.errors import SettingsError

TWO = """- {question: "What?", reply: "It is {token}."}
- {question: "Why?", reply: "For {token}"}
"""


def test_there_are_fifteen_pairs_for_actions_and_some_for_risks() -> None:
    action, risk = prompts_from_settings(None, "action"), prompts_from_settings(None, "risk")
    assert len(set(action)) == 15 and len(set(risk)) >= 5 and not set(action) & set(risk)
    assert all(pair.reply.count("{token}") == 1 and "{" not in pair.question for pair in (*action, *risk))


def test_a_file_and_a_list_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "pairs.yaml"
    path.write_text(TWO, encoding="utf-8")
    pairs = (PromptPair(question="What?", reply="It is {token}."), PromptPair(question="Why?", reply="For {token}"))
    assert prompts_from_settings(path, "action") == prompts_from_settings(pairs, "risk") == pairs
    config = config_from_options(None, [f"vlm.prompts={path}"])
    assert config.vlm.prompts == path
    resolved = config.model_copy(update={"vlm": config.vlm.model_copy(update={"prompts": pairs})})
    write_config(resolved, tmp_path / "config.yaml")  # a run holds the pairs, not the place of a file
    assert config_from_options(tmp_path / "config.yaml").vlm.prompts == pairs


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds a NoneType; allowed: a list of pairs"),
        ("[]", r"vlm.prompts is empty; allowed: pairs of `question` and `reply`"),
        ("a: b", "holds a dict; allowed: a list"),
        ("[", "cannot be read"),
        ("- {question: a}", "pair 0 of .*: reply Field required"),
        ("- {question: a, reply: '{token}', x: 1}", "pair 0 of .*: x Extra inputs"),
        ("- 3", "pair 0 of .*: Input should be a valid"),
        (
            "- {question: a, reply: b}",
            "pair 0 of vlm.prompts holds {token} 0 times in its reply and 0 times in its question",
        ),
        ("- {question: a, reply: '{token} {token}'}", "2 times in its reply"),
        (
            f"{TWO}- {{question: '{{token}}?', reply: '{{token}}'}}",
            "pair 2 .* 1 times in its reply and 1 times in its question",
        ),
        ("- {question: '', reply: '{token}'}", "pair 0 of .*: question String should have at least 1"),
    ],
)
def test_pairs_that_cannot_be_used_are_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "pairs.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=said) as caught:
        prompts_from_settings(path, "action")
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("absent.yaml", "bytes.yaml", "."):
        with pytest.raises(SettingsError, match=r"vlm\.prompts .* cannot be read"):
            prompts_from_settings(tmp_path / name, "action")


def test_defaults_hold_no_pairs() -> None:
    assert TrainConfig().vlm.prompts is None
