"""Errors that end a training run, in one line: a loss that is not finite, or too little memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor

from vidrisk.runtimes.contract.errors import SettingsError, VidriskError

NAMED = 8
KNOBS = (
    "a smaller optim.batch_size with as much more optim.accumulate, gradient_checkpointing=true, fewer frames, or for "
    "a vision-language model vlm.weights=bfloat16 or 4bit"
)


def find_not_finite(logits: tuple[Tensor, ...], names: Sequence[str]) -> list[str]:
    """Return the names of the samples whose logits are not finite; ``logits`` has the order of ``names``."""
    finite = torch.stack([output.detach().isfinite().all(dim=1) for output in logits]).all(dim=0).tolist()
    return [name for name, is_finite in zip(names, finite, strict=False) if not is_finite]


def make_batch_error(
    what: str, *, epoch: int, batch: int, bad: Sequence[Sequence[str]], names: Sequence[Sequence[str]], kept: str
) -> SettingsError:
    """Return the error of a step with a loss or gradient that is not finite.

    Args:
        what: the quantity that is not finite.
        epoch: counted from 1.
        batch: counted from 1.
        bad: names of the samples whose logits are not finite, by process; may be empty.
        names: names of all samples of the batch, by process.
        kept: a phrase that says where the previous state is.
    """
    every, found = list(chain(*names)), list(chain(*bad))
    told = found or every
    few = ", ".join(told[:NAMED]) + (f" and {len(told) - NAMED} more" if len(told) > NAMED else "")
    return SettingsError(
        f"the {what} of batch {batch} in epoch {epoch} is not finite, {len(told)} of its {len(every)} samples: "
        f"{few}; {kept}",
        fix="lower the learning rates (optim.lora_lr, head_lr, token_lr, projector_lr), or leave these samples out",
    )


@contextmanager
def name_memory_knobs() -> Iterator[None]:
    """Name the settings that need less memory if the block runs out of it.

    Raises:
        VidriskError: out of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not (isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text):
            raise
        line = next(iter(text.strip().splitlines()), "no more memory")
        raise VidriskError(f"out of memory in training: {line}", fix=KNOBS) from error
