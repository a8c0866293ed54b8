"""A conversation is split between the question and the reply, whatever the template."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from vlms import TEMPLATE, make_tokenizer

from vidrisk.models.config import PromptPair, VlmSettings
from vidrisk.models.vlm import rendering
from vidrisk.models.vlm.conversation import MARK, conversations_from_pairs, ids_from_text
from vidrisk.runtimes.contract.errors import SettingsError

PAIR = PromptPair(question="What?", reply="It is {token}.")
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}<|end|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)


def tokenizer(template: str | None) -> Any:
    made = make_tokenizer()
    made.chat_template = template
    return made


def told(made: Any, settings: VlmSettings, visual: dict[str, str] | None = None) -> tuple[str, str]:
    """Return the text in front of the reply, and the reply."""
    (found,) = conversations_from_pairs(made, [PAIR], settings, visual=visual)
    return found.before, found.reply


def test_a_mark_goes_in_front_of_the_question_as_text() -> None:
    before, reply = told(tokenizer(TEMPLATE), VlmSettings())
    assert before == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{MARK}\nWhat?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert reply == "It is <ACT>.<|im_end|>\n"


def test_a_template_puts_marks_of_its_own() -> None:
    before, _ = told(tokenizer(TEMPLATE), VlmSettings(), {"type": "video"})
    assert "user\n<|vision_start|><|video_pad|><|vision_end|>What?" in before and MARK not in before


def test_the_question_may_come_first() -> None:
    first = VlmSettings(question_first=True)
    before, _ = told(tokenizer(TEMPLATE), first)
    assert f"user\nWhat?\n{MARK}<|im_end|>" in before
    before, _ = told(tokenizer(TEMPLATE), first, {"type": "video"})
    assert "user\nWhat?<|vision_start|><|video_pad|><|vision_end|><|im_end|>" in before
    assert told(tokenizer(None), first)[0] == f"What?\n{MARK}\n"


def test_a_template_that_states_the_date_gives_the_same_on_any_day() -> None:
    template = "{{ strftime_now('%Y-%m-%d %H:%M:%S') }}{% for m in messages %}{{ m.content }}{% endfor %}"
    assert told(tokenizer(template), VlmSettings())[0].startswith("2025-01-01 00:00:00")


def test_other_templates_and_none_at_all() -> None:
    assert told(tokenizer(LLAMA3), VlmSettings(token="<A>"))[1] == "It is <A>.<|eot|>"
    plain = told(tokenizer(None), VlmSettings(token="<A>"))
    assert plain == (f"{MARK}\nWhat?\n", "It is <A>.")


def test_a_text_begins_as_the_tokenizer_begins_every_text() -> None:
    plain = tokenizer(None)
    plain.add_special_tokens({"bos_token": "<s>"})
    assert told(plain, VlmSettings())[0] == f"{MARK}\nWhat?\n"
    plain._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", plain.bos_token_id)])
    assert told(plain, VlmSettings(system="Be brief."))[0] == f"<s>Be brief.\n{MARK}\nWhat?\n"


def test_what_the_conversation_begins_with_may_be_chosen() -> None:
    for template, begin in (
        (TEMPLATE, "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"),
        (None, "Be brief.\n"),
    ):
        before, _ = told(tokenizer(template), VlmSettings(system="Be brief."))
        assert before.startswith(begin + MARK)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "{{ raise_exception('no user may speak') }}",
            "fails: no user may speak; allowed: one that takes a question and a reply",
        ),
        (
            "{% for m in messages %}{{ m.nothing.at.all }}{% endfor %}",
            "fails: 'dict object' has no attribute 'nothing'",
        ),
        ("{% for m in messages %", "the chat template of the backbone fails: "),
        (
            "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
            "changes the question when a reply follows",
        ),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_in_one_line(template: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        told(tokenizer(template), VlmSettings())
    assert len(str(caught.value).splitlines()) == 1


def test_a_template_runs_no_code() -> None:
    """A template with unsafe expressions is refused, because a backbone may come from an untrusted source."""
    sneaky = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(SettingsError, match=r"fails: .*unsafe"):
        told(tokenizer(sneaky), VlmSettings())


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
            "did not finish within 1 s",
        ),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "fails: maximum recursion depth exceeded"),
        ("{{ range(10**9) | list | length }}", "did not finish within 1 s|fails: (Range too big|MemoryError)"),
        ("{{ ('a' * 10**11) | length }}", "fails: MemoryError"),
        ("{{ '%100000000000d' % 1 }}", "fails: MemoryError"),
        (
            "{% set d = namespace(x='a') %}{% for i in range(60) %}{% set d.x = d.x ~ d.x %}{% endfor %}",
            "did not finish within 1 s|fails: MemoryError",
        ),
        ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "fails: it gives 199998000 characters"),
        ("{# " + "a" * 1_000_000 + " #}", "has 1000006 characters"),
    ],
)
def test_a_hostile_template_is_refused_soon(template: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template that is too slow or too large is refused, even in a thread, where no signal could stop it."""
    monkeypatch.setattr(rendering, "CPU_S", 1)
    with ThreadPoolExecutor(1) as pool, pytest.raises(SettingsError, match=said) as caught:
        pool.submit(told, tokenizer(template), VlmSettings()).result(timeout=60)
    assert len(str(caught.value).splitlines()) == 1


def test_all_pairs_are_rendered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rendering._render.cache_clear()
    runs: list[Any] = []
    run = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda *arguments, **options: (runs.append(arguments), run(*arguments, **options))[1]
    )
    pairs = [PromptPair(question=f"What {number}?", reply="{token}") for number in range(5)]
    for _ in range(2):
        found = conversations_from_pairs(tokenizer(LLAMA3), pairs, VlmSettings(), visual=None)
        assert [each.before.count(pair.question) for each, pair in zip(found, pairs, strict=True)] == [1] * 5
        assert {each.reply for each in found} == {"<ACT><|eot|>"}
    assert len(runs) == 1


def test_special_tokens_of_the_tokenizer_are_known_to_its_template() -> None:
    made = tokenizer("{{ eos_token }}{% for m in messages %}{{ m.content }}{% endfor %}")
    assert told(made, VlmSettings())[0].startswith("<|im_end|>")


def test_no_text_has_no_tokens_and_none_are_added() -> None:
    made = tokenizer(TEMPLATE)
    assert ids_from_text(made, "") == () and made.decode(ids_from_text(made, "What?<|im_end|>")) == "What?<|im_end|>"
    calls: list[dict[str, Any]] = []

    def call(text: str, **options: Any) -> dict[str, list[int]]:
        calls.append(options)
        return {"input_ids": [1]}

    assert ids_from_text(call, "a") == (1,) and calls == [{"add_special_tokens": False}]
