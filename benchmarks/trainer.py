"""Compare the training loop with ``transformers.Trainer`` on the same work: steps per second, in turns, in one process.

    python benchmarks/trainer.py [--small]

The model is EfficientNet-Lite0 + MLP + the first blocks of SmolLM2-135M-Instruct with ``<ACT>``: LoRA, the token's row,
projector and head are trained. Trainer starts with the same weights, and gets the same clips in the same batches, AdamW
over the same groups (fused, Trainer's default), and the same schedule and clipping, without logging, saving or
validation. A comparison is refused unless the mean loss of every epoch and the set of trained weights agree.

    tower in every step    both run the frozen tower in every step: the loops alone
    features kept          ours runs it once before the first epoch, its default; Trainer as before

In a turn, each trains two epochs; the steps of the second one are timed, from the beginning of its first step to the
beginning of its last. The order within a turn rotates, and the first turn is not counted. --small: two blocks, small
frames, one thread and one turn, to check that it runs; writes nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from machine import describe_machine
from small_clips import StepClock, write_clips
from trainer_peer import train_by_trainer

from vidrisk.data import Table
from vidrisk.models.config import TrainConfig, config_from_options
from vidrisk.models.pretrained import build_classifier, contract_from_config, resolve_config
from vidrisk.models.trainable import TrainableModel
from vidrisk.models.vlm.smollm2 import smollm2_folder
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.train.dataset import ClipDataset
from vidrisk.train.train import labels_from_table, train_run

RESULT = Path(__file__).parent / "results" / "trainer.json"
EPOCHS, FRAMES, BATCH = 2, 8, 4
TOWER, KEPT, PEER = "tower in every step", "features kept", "Trainer"
# Most of the relative difference of losses, and of weights in shares of the distance that training has moved them. Kept
# features are float16.
MOST_APART = {TOWER: {"losses": 1e-3, "weights": 2e-3}, KEPT: {"losses": 5e-2, "weights": 5e-2}}


@dataclass(frozen=True)
class Trained:
    """The result of one loop: seconds per step, mean loss of every epoch, trained weights by file and name."""

    seconds_per_step: float
    losses: list[float]
    weights: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Work:
    """The work of both loops."""

    table: Table
    config: TrainConfig
    contract: Contract

    def model(self) -> TrainableModel:
        """Return a new model, always with the same weights."""
        transformers.set_seed(self.config.seed)
        model = build_classifier(self.config, self.contract, local_only=True)
        model.adapt(self.config)
        return model


def work_in(folder: Path, *, layers: int, clips: int, side_px: int) -> Work:
    """Shorten the language model, write clips, and return the settings of training."""
    source, cut = smollm2_folder(), folder / "language"
    short = transformers.AutoConfig.from_pretrained(source, num_hidden_layers=layers)
    transformers.AutoModelForCausalLM.from_pretrained(source, config=short).save_pretrained(cut)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(cut)
    settings = (
        f"backbone=compose:efficientnet-lite0+{cut}",
        f"frames={FRAMES}",
        f"pixel.height={side_px}",
        f"pixel.width={side_px}",
        "lora.last_blocks=null",
        "head.dropout=0",
        "augment=[]",
        f"optim.epochs={EPOCHS}",
        f"optim.batch_size={BATCH}",
        "precision=fp32",
    )
    config = resolve_config(config_from_options(None, settings), clips=True)
    one_prompt = config.vlm.model_copy(update={"prompts": config.vlm.prompts[:1]})  # type: ignore[index]
    table = write_clips(folder / "clips", clips)
    config = config.model_copy(update={"vlm": one_prompt})
    return Work(table, config, contract_from_config(config, labels_from_table(table, config)))


def train_ours(work: Work, views: int) -> Trained:
    clock = StepClock()
    with tempfile.TemporaryDirectory() as out:
        train_run(work.table, work.config.model_copy(update={"views": views}), Path(out), on_progress=clock)
        losses = [
            epoch["train_loss"]
            for epoch in json.loads((Path(out) / "metrics.json").read_text(encoding="utf-8"))["epochs"]
        ]
        return Trained(clock.seconds_per_step, losses, _weights(Path(out)))


def order_of_ours(work: Work) -> list[list[int]]:
    """Return the indices of the samples in training order, by epoch."""
    asked: list[int] = []
    read = ClipDataset.__getitem__

    def note_item(data: ClipDataset, index: int) -> Any:
        asked.append(index)
        return read(data, index)

    ClipDataset.__getitem__ = note_item  # type: ignore[method-assign]
    try:
        train_ours(work, views=0)
    finally:
        ClipDataset.__getitem__ = read  # type: ignore[method-assign]
    size = len(work.table)
    return [asked[len(asked) - size * left :][:size] for left in range(EPOCHS, 0, -1)]


def train_peer(work: Work, orders: list[list[int]]) -> Trained:
    model = work.model()
    data = ClipDataset(work.table, work.contract, cache_mb=work.config.cache_mb)
    clock, losses = train_by_trainer(model, data, work.config.optim, orders)
    return Trained(clock.seconds_per_step, losses, copy_state(model))


def copy_state(model: TrainableModel) -> dict[str, torch.Tensor]:
    with tempfile.TemporaryDirectory() as out:
        model.save(Path(out))
        return _weights(Path(out))


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    files = (
        folder / "head.safetensors",
        folder / "projector.safetensors",
        folder / "adapter" / "adapter_model.safetensors",
    )
    return {
        f"{file.stem} {name}": tensor for file in files for name, tensor in safetensors.torch.load_file(file).items()
    }


def difference(ours: Trained, peer: Trained, start: dict[str, torch.Tensor]) -> dict[str, float]:
    apart = sum(float((value - peer.weights[name]).square().sum()) for name, value in ours.weights.items())
    moved = sum(float((value - start[name]).square().sum()) for name, value in peer.weights.items())
    losses = max(abs(one - other) / abs(other) for one, other in zip(ours.losses, peer.losses, strict=True))
    return {"losses": losses, "weights": (apart / moved) ** 0.5}


def measure(work: Work, turns: int) -> dict[str, Any]:
    orders, start = order_of_ours(work), copy_state(work.model())
    ways: dict[str, Callable[[], Trained]] = {
        PEER: lambda: train_peer(work, orders),
        TOWER: lambda: train_ours(work, views=0),
        KEPT: lambda: train_ours(work, views=1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    apart: dict[str, dict[str, float]] = {}
    for turn in range(turns + 1):
        found = {name: ways[name]() for name in [*ways][turn % len(ways) :] + [*ways][: turn % len(ways)]}
        for name, most in MOST_APART.items():
            apart[name] = difference(found[name], found[PEER], start)
            if any(apart[name][what] > most[what] for what in most):
                raise SystemExit(
                    f"{name} is other work: {apart[name]}, losses {found[name].losses} and {found[PEER].losses}"
                )
        for name in ways if turn else ():
            seconds[name].append(found[name].seconds_per_step)
        print({name: round(each.seconds_per_step, 3) for name, each in found.items()}, apart, flush=True)
    rows = []
    for name in MOST_APART:
        times = [peer / own for peer, own in zip(seconds[PEER], seconds[name], strict=True)]
        rows.append(
            {
                "name": name,
                "steps_per_s": 1 / statistics.median(seconds[name]),
                "times_trainer": statistics.median(times),
                "least": min(times),
                "most": max(times),
                "apart": apart[name],
            }
        )
    return {"trainer_steps_per_s": 1 / statistics.median(seconds[PEER]), "rows": rows, "turns": turns}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    layers, clips, side_px, turns, threads = (2, 2 * BATCH, 64, 1, 1) if arguments.small else (8, 8 * BATCH, 224, 5, 2)
    torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        work = work_in(Path(scratch), layers=layers, clips=clips, side_px=side_px)
        found = measure(work, turns)
        found |= {"parameters": sum(each.numel() for each in work.model().parameters())}
    found |= {
        "blocks": layers,
        "clips": clips,
        "frames": FRAMES,
        "batch": BATCH,
        "threads": threads,
        "machine": describe_machine(),
    }
    if not arguments.small:
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
