"""Tests of adding a token: it gets an unused row, neighbouring rows stay unchanged, and ties hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from vlms import ROWS

from vidrisk.models.vlm.token import add_token
from vidrisk.runtimes.contract.errors import SettingsError

Make = Callable[..., Path]


def loaded(folder: Path) -> tuple[Any, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return model, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("tie", [True, False])
def test_a_spare_row_is_taken_and_the_matrix_keeps_its_size(language_folder: Make, tie: bool) -> None:
    model, tokenizer = loaded(language_folder(tie_word_embeddings=tie))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    known = len(tokenizer)
    assert known < ROWS - 1
    number = add_token(model, tokenizer, "<ACT>")
    assert number == known == tokenizer.convert_tokens_to_ids("<ACT>")
    changed = {
        name: (value != before[name]).any(1).nonzero().flatten().tolist()
        for name, value in model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {"model.embed_tokens.weight": [number], "lm_head.weight": [number]}
    ends = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    assert (ends[0].data_ptr() == ends[1].data_ptr()) is tie
    for end in ends:
        assert end.shape == (ROWS, 64)
        torch.testing.assert_close(end[number], end[:known].mean(0))


@pytest.mark.parametrize("tie", [True, False])
def test_one_row_is_added_where_none_is_spare(language_folder: Make, tie: bool) -> None:
    folder = language_folder(spare=False, tie_word_embeddings=tie)
    model, tokenizer = loaded(folder)
    before = model.get_input_embeddings().weight.detach().clone()
    number = add_token(model, tokenizer, "<ACT>")
    ends = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    assert len(before) == number == len(ends[0]) - 1 == len(ends[1]) - 1 == model.config.vocab_size - 1
    assert torch.equal(ends[0][:number], before) and (ends[0].data_ptr() == ends[1].data_ptr()) is tie
    again, other = loaded(folder)
    add_token(again, other, "<ACT>")
    assert torch.equal(again.get_input_embeddings().weight, ends[0]) and torch.equal(
        again.get_output_embeddings().weight, ends[1]
    )


def test_a_token_that_is_there_is_refused(language_folder: Make) -> None:
    model, tokenizer = loaded(language_folder())
    before = model.get_input_embeddings().weight.detach().clone()
    with pytest.raises(
        SettingsError, match=r"'<\|im_end\|>' is a token of the backbone already; .*; fix: choose another one"
    ):
        add_token(model, tokenizer, "<|im_end|>")
    assert torch.equal(model.get_input_embeddings().weight, before)


def test_a_row_in_half_precision_is_the_mean_in_single_precision(language_folder: Make) -> None:
    model, tokenizer = loaded(language_folder())
    model.to(torch.bfloat16)
    number = add_token(model, tokenizer, "<ACT>")
    weight = model.get_input_embeddings().weight
    assert torch.equal(weight[number], weight[:number].float().mean(0).to(torch.bfloat16))


@pytest.mark.parametrize("text", ["The action is <ACT>.", "<ACT>", "a<ACT>b", " <ACT> ", "系统<ACT>。"])
def test_the_token_is_one_token_wherever_it_stands(language_folder: Make, text: str) -> None:
    model, tokenizer = loaded(language_folder())
    number = add_token(model, tokenizer, "<ACT>")
    assert tokenizer(text, add_special_tokens=False)["input_ids"].count(number) == 1
