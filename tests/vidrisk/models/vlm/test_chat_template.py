"""The joined pieces of a chat template equal the output of the template itself."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from vidrisk.models.vlm.chat_template import pieces_from_tokenizer
from vidrisk.models.vlm.rendering import render_chats
from vidrisk.runtimes.contract.errors import SettingsError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<|vs|><|ip|><|ve|>{% else %}{{ c.text }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(template: str | None, **names: str) -> Any:
    return SimpleNamespace(
        chat_template=template,
        special_tokens_map={},
        get_chat_template=lambda: template,
        bos_token=None,
        eos_token="</s>",
        **names,
    )


def test_smollm2(smollm2: Path) -> None:
    found = AutoTokenizer.from_pretrained(str(smollm2))
    pieces = pieces_from_tokenizer(found, None)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What?"},
        {"role": "assistant", "content": "This."},
        {"role": "user", "content": "And?"},
    ]
    (whole,) = render_chats(found, [(messages, True)])
    assert whole == (
        f"{pieces.begin}Be brief.{pieces.to_question}What?{pieces.to_answer}This.{pieces.to_next}And?{pieces.to_answer}"
    )
    (bare,) = render_chats(found, [(messages[1:2], True)])
    assert bare == f"{pieces.begin_bare}What?{pieces.to_answer}"


def test_a_template_with_marks_of_its_own_around_photos() -> None:
    pieces = pieces_from_tokenizer(tokenizer(CHATML), "<|ip|>")
    assert (pieces.photo_open, pieces.photo_close) == ("<|vs|>", "<|ve|>")
    assert pieces.to_next == "<|im_end|>\n<|im_start|>user\n"


def test_a_template_without_a_system_role() -> None:
    refusing = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{% endfor %}" + CHATML
    )
    pieces = pieces_from_tokenizer(tokenizer(refusing), None)
    assert (pieces.begin, pieces.to_question) == (pieces.begin_bare, "\n\n")


def test_no_template_gives_lines() -> None:
    pieces = pieces_from_tokenizer(tokenizer(None), None)
    assert pieces.to_next == "</s>\n" and pieces.begin == ""


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.role }}{% endfor %}",
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
    ],
)
def test_a_template_that_changes_what_is_said(template: str) -> None:
    with pytest.raises(SettingsError, match="chat template of the backbone gives"):
        pieces_from_tokenizer(tokenizer(template), None)
