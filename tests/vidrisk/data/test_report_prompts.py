"""Tests of the prompts of reports: one builder with a constant system text.

Text from outside cannot forge markers in the user turn.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.data.answers import answer_from_fields, fields_from_answer
from vidrisk.data.cases import Case, PhotoFile
from vidrisk.data.instructions import instruction_from_case
from vidrisk.data.report_prompts import PHOTO, prompt_from_case, system_text, without_markers
from vidrisk.data.scheme import Scheme
from vidrisk.data.scheme_file import BUILT_IN, load_scheme, scheme_from_text
from vidrisk.models.vlm.instruction_parts import exchanges_from_instruction
from vidrisk.runtimes.contract.errors import DataError

SCHEME = load_scheme("three-levels")


def case(photos: int, text: str = "") -> Case:
    return Case(
        "1", tuple(PhotoFile(Path(f"/{n}.jpg"), f"{n}.jpg") for n in range(photos)), {"defect": text}, where="row 1"
    )


@pytest.mark.parametrize("photos", [1, 3])
def test_every_photo_has_a_marker(photos: int) -> None:
    prompt = prompt_from_case(SCHEME, case(photos, "墙体裂缝"))
    assert prompt.user == f"{PHOTO}\n" * photos + prompt.question and str(photos) in prompt.question
    assert "墙体裂缝" not in prompt.user


def test_a_case_without_photos_shows_its_text() -> None:
    prompt = prompt_from_case(SCHEME, case(0, "墙体裂缝"))
    assert "墙体裂缝" in prompt.user and PHOTO not in prompt.user and prompt.photos == 0
    with pytest.raises(DataError, match="row 1: neither a photo nor a text"):
        prompt_from_case(SCHEME, case(0))


def test_photos_that_could_not_be_read_are_not_promised() -> None:
    assert prompt_from_case(SCHEME, case(3, "裂缝"), photos=1) == prompt_from_case(SCHEME, case(1, "裂缝"))
    assert prompt_from_case(SCHEME, case(3, "裂缝"), photos=0) == prompt_from_case(SCHEME, case(0, "裂缝"))


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_system_text_names_every_field_and_level(name: str) -> None:
    scheme = load_scheme(name)
    for style in ("json", "brackets", "bold"):
        text = system_text(scheme, style)
        assert all((field.name if style == "json" else field.label) in text for field in scheme.fields)
        assert all(level in text for level in scheme.level_names) and "{" not in text
        assert prompt_from_case(scheme, case(1), style=style).system == text


@pytest.mark.parametrize("style", ["brackets", "bold"])
def test_the_form_that_is_asked_for_is_the_form_that_is_read(style: str) -> None:
    shown = fields_from_answer(SCHEME, system_text(SCHEME, style))  # type: ignore[arg-type]
    assert not any("missing" in problem for problem in shown.problems)
    answer = answer_from_fields(SCHEME, {"level": "严重"}, style)  # type: ignore[arg-type]
    assert [line.partition("<")[0] for line in system_text(SCHEME, style).splitlines()[-4:]] == [  # type: ignore[arg-type]
        line.replace("严重", "") for line in answer.splitlines()
    ]


@given(
    st.lists(
        st.sampled_from(["<image>", "<video>", "<|im_end|>", "<|image_pad|>", "<", "|", "{text}", "{count}"])
        | st.text(max_size=5)
    ).map("".join)
)
def test_texts_cannot_forge_markers(text: str) -> None:
    plain = without_markers(text)
    assert (
        not any(marker in plain for marker in ("<image>", "<video>", "<audio>", "<|"))
        and without_markers(plain) == plain
    )
    assert plain.replace(" ", "") == text.replace(" ", "")
    user = prompt_from_case(SCHEME, case(0, f"x{text}")).user
    assert f"x{plain}" in user and PHOTO not in user


def test_prompts_may_be_replaced() -> None:
    scheme = scheme_from_text(
        "name: x\nlanguage: en\nlevels: [{name: low}, {name: high}]\nfields: [{name: level, label: l, kind: level}, "
        "{name: note, label: n}]\ntext_field: note\nprompts: {system: 'Levels {levels}. {fields}', photos: '{count} seen', "
        "text: 'Told: {text}'}",
        "s",
    )
    assert isinstance(scheme, Scheme)
    assert prompt_from_case(scheme, case(2)).question == "2 seen"
    told = prompt_from_case(scheme, Case("1", (), {"note": "{levels} {text}"}))
    assert told.question == "Told: {levels} {text}" and told.system.startswith(
        "Levels low, high. Answer with one JSON object"
    )


def test_a_block_of_yaml_is_asked_as_it_is_trained() -> None:
    """The question of the prompt equals the trained question.

    Training removes the markers of photos, and the new lines around them, from a turn.
    """
    scheme = scheme_from_text(
        "name: x\nlanguage: en\nlevels: [{name: low}, {name: high}]\nfields: [{name: level, label: l, kind: level}]\n"
        "prompts:\n  photos: |\n\n    {count} photos.\n\n    What is it?\n",
        "s",
    )
    told = Case("1", case(2).photos, {"level": "low"})
    _, (trained,) = exchanges_from_instruction(instruction_from_case(scheme, told))
    assert (
        trained.question == prompt_from_case(scheme, told).question == "2 photos.\n\nWhat is it?"
        and trained.photos == 2
    )
