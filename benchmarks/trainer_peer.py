"""The same training with ``transformers.Trainer`` and its fastest settings.

They are a fused optimiser, and no logging, saving or progress bar.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from small_clips import StepClock

from vidrisk.models.config import OptimSettings
from vidrisk.models.trainable import TrainableModel
from vidrisk.train.dataset import ClipDataset


def train_by_trainer(
    model: TrainableModel, data: ClipDataset, optim: OptimSettings, orders: Sequence[Sequence[int]]
) -> tuple[StepClock, list[float]]:
    """Train a model with an adapter in place.

    Args:
        model: the model.
        data: samples.
        optim: rates, batch size, warm-up and clipping; a whole number of batches is in the data.
        orders: numbers of the samples in the order in which an epoch takes them, by epoch.

    Returns:
        Start times of the steps, and the mean loss of each epoch.
    """
    clock, losses, steps = StepClock(), [0.0] * len(orders), len(data) // optim.batch_size
    with torch.inference_mode():
        model.eval().standardise(lambda: (data[number][0][None] for number in range(len(data))))

    class Sampler(torch.utils.data.Sampler[int]):
        def __len__(self) -> int:
            return len(data)

        def __iter__(self) -> Iterator[int]:
            return iter(orders[len(clock.begins)])

    class Peer(transformers.Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
            return Sampler()

        def compute_loss(self, model: Any, inputs: dict[str, Any], *given: Any, **further: Any) -> torch.Tensor:
            logits, of_reply = model(inputs["frames"])
            loss: torch.Tensor = torch.nn.functional.cross_entropy(logits[0], inputs["truth"][:, 0]) + of_reply
            losses[len(clock.begins) - 1] += float(loss.detach()) / steps
            return loss

    class Watch(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, arguments: Any, state: Any, control: Any, **further: Any) -> None:
            clock.note(is_first=state.global_step % steps == 0)

    optimizer = torch.optim.AdamW(model.parameter_groups(optim), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps * len(orders), optim.warmup))
    with tempfile.TemporaryDirectory() as out:
        settings = transformers.TrainingArguments(
            output_dir=out,
            num_train_epochs=len(orders),
            per_device_train_batch_size=optim.batch_size,
            report_to="none",
            max_grad_norm=optim.clip_norm,
            use_cpu=True,
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        peer = Peer(
            model,
            settings,
            train_dataset=data,
            data_collator=_batch,
            optimizers=(optimizer, schedule),
            callbacks=[Watch()],
        )
        peer.remove_callback(transformers.PrinterCallback)
        peer.train()
    return clock, losses


def _batch(rows: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {"frames": torch.stack([row[0] for row in rows]), "truth": torch.stack([row[1] for row in rows])}


def _rate(step: int, steps: int, warmup: float) -> float:
    """Return the rate at a step: linear warm-up to 1, cosine decay to 0."""
    rising = max(1, round(steps * warmup))
    return (
        (step + 1) / rising
        if step < rising
        else 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
    )
