from __future__ import annotations

import pytest
import torch

from vidrisk.runtimes.contract.errors import VidriskError
from vidrisk.train.failures import NAMED, find_not_finite, make_batch_error, name_memory_knobs

KEPT = "checkpoints has the state after epoch 2"


def said(bad: list[list[str]], names: list[list[str]]) -> str:
    return make_batch_error("gradient", epoch=3, batch=7, bad=bad, names=names, kept=KEPT).what


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_samples_without_numbers_are_named_whichever_target_they_have_none_of(value: float) -> None:
    action, level = torch.zeros(3, 2), torch.zeros(3, 4)
    assert find_not_finite((action, level), ["a", "b", "c"]) == []
    action[2, 0] = level[0, 3] = value
    assert find_not_finite((action, level), ["a", "b", "c"]) == ["a", "c"]


def test_a_process_without_a_share_names_nothing() -> None:
    """A process without a share of the batch reports no sample.

    It computes a sample of another process, so that all processes take part.
    """
    assert find_not_finite((torch.full((1, 2), float("nan")),), []) == []


def test_samples_are_named_before_the_rest_of_their_batch() -> None:
    assert said([[], ["d"]], [["a", "c"], ["b", "d"]]) == (
        f"the gradient of batch 7 in epoch 3 is not finite, 1 of its 4 samples: d; {KEPT}"
    )


def test_where_all_logits_are_numbers_the_whole_batch_is_named() -> None:
    assert said([[], []], [["a", "c"], ["b"]]) == (
        f"the gradient of batch 7 in epoch 3 is not finite, 3 of its 3 samples: a, c, b; {KEPT}"
    )


@pytest.mark.parametrize("more", [0, 1, 40])
def test_a_large_batch_stays_one_line(more: int) -> None:
    names = [f"{number}.mp4" for number in range(NAMED + more)]
    text = said([names], [names])
    listed = text.partition("samples: ")[2].partition(";")[0]
    assert listed == ", ".join(names[:NAMED]) + (f" and {more} more" if more else "")


def test_the_remedy_is_a_lower_rate() -> None:
    error = make_batch_error("loss", epoch=1, batch=1, bad=[["a\nb"]], names=[["a\nb"]], kept=KEPT)
    assert (
        error.fix
        == "lower the learning rates (optim.lora_lr, head_lr, token_lr, projector_lr), or leave these samples out"
    )
    assert "\n" not in str(error)


def test_memory_that_a_processor_does_not_have_is_one_line_with_what_saves_it() -> None:
    told = r"^out of memory in training: .*can't allocate memory.*; fix: a smaller optim\.batch_size"
    with pytest.raises(VidriskError, match=told) as caught, name_memory_knobs():
        torch.empty(2**46)
    assert "\n" not in str(caught.value) and "gradient_checkpointing=true" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "no more memory"),
        (MemoryError("8 GB\nof frames"), "8 GB"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to"), "CUDA out of memory."),
    ],
)
def test_every_kind_of_want_of_memory_is_told(error: Exception, reason: str) -> None:
    with pytest.raises(VidriskError) as caught, name_memory_knobs():
        raise error
    assert caught.value.what == f"out of memory in training: {reason}" and caught.value.__cause__ is error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="size of tensor"), name_memory_knobs():
        torch.zeros(2) + torch.zeros(3)
