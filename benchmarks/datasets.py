"""Test models for INT8: runs trained on five datasets, and a small transformer with an equivalent with outliers.

Settings are fixed beforehand. Every table has train, val (the gate's samples) and test (the figures' samples).
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from elpv import SETTINGS as ELPV_SETTINGS
from elpv import table_of as elpv_table
from torch import nn

from vidrisk.data import Table, load_table, split_table, targets_from_table
from vidrisk.models.config import config_from_options, write_config
from vidrisk.models.encoders import default_pixel
from vidrisk.models.run import CONFIG, METRICS, Run
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.train.dataset import ClipDataset
from vidrisk.train.train import train_run

PHOTO_SETTINGS = (
    "task=risk",
    "lora.last_blocks=0",
    "head.kind=linear",
    "augment=[flip, updown]",
    "views=2",
    "optim.epochs=60",
    "optim.batch_size=32",
    "optim.head_lr=0.001",
)
UT_SETTINGS = (
    "frames=16",
    "lora.last_blocks=0",
    "augment=[flip]",
    "views=2",
    "head.kind=segments",
    "head.dropout=0.5",
    "optim.epochs=40",
    "optim.batch_size=64",
    "optim.head_lr=0.0001",
    "optim.label_smoothing=0.1",
)
FOLDS = 5  # of UT-Interaction: two sequences to test on, the next two to judge on, six to train and calibrate on


@dataclass(frozen=True)
class Dataset:
    """Tables, settings and the budget of one comparison.

    Attributes:
        tables: from the folder of all data to one table per fold.
        folder: what that folder must hold; '' for data that a package brings.
        max_drop: points of top-1 that the gate, and NNCF's accuracy control, may give away.
        one_run: the folds differ in what judges and what tests, and share one run, trained on neither.
        every_peer: compare with all methods, or with the quick ones.
        profiles: of quantisation.
        runs: name of a run's folder, before the fold's number.
    """

    protocol: str
    settings: tuple[str, ...]
    tables: Callable[[Path], list[Table]]
    max_drop: float
    runs: str
    folder: str = ""
    one_run: bool = False
    every_peer: bool = False
    profiles: tuple[str, ...] = ("cpu",)


def _elpv(_: Path) -> list[Table]:
    """Split the photos that are not trained on into halves for validation and test, and the other way round."""
    table = elpv_table(0)
    held_out = [s.name for s in table.samples if s.split == "test"]
    return [
        table.with_samples(replace(s, split="val") if s.name in half else s for s in table.samples)
        for half in ({*held_out[::2]}, {*held_out[1::2]})
    ]


def _magnetic_tile(data: Path) -> list[Table]:
    table = load_table(data / "magnetic_tile" / "labels.csv", "risk")
    return [split_table(table, ratios=(5, 2, 3), seed=0)]


def _brick_crack(data: Path) -> list[Table]:
    table = load_table(data / "brick_crack", "risk")
    return [split_table(table, ratios=(5, 2, 3), seed=0, group_by=r"(\d+)\d\.jpg")]


def _ut_interaction(data: Path) -> list[Table]:
    table = load_table(data / "ut_interaction_set1", "action")
    pairs = {sample.name: (int(re.search(r"seq(\d+)", sample.name)[1]) - 1) // 2 for sample in table.samples}  # type: ignore[index]
    return [
        table.with_samples(
            replace(
                s, split="test" if pairs[s.name] == fold else "val" if pairs[s.name] == (fold + 1) % FOLDS else "train"
            )
            for s in table.samples
        )
        for fold in range(FOLDS)
    ]


DATASETS = {
    "elpv": Dataset(
        "four levels, 75/25 stratified, seed 0; each half of the 25 judges the other",
        tuple(ELPV_SETTINGS),
        _elpv,
        0.3,
        "run",
        one_run=True,
        every_peer=True,
        profiles=("cpu", "tensorrt"),
    ),
    "elpv_probe": Dataset(
        "the same photos; frozen features at 224²",
        (*PHOTO_SETTINGS, "pool=avg", "augment=[]", "views=1"),
        _elpv,
        0.3,
        "elpv_probe",
        one_run=True,
        profiles=("cpu", "tensorrt"),
    ),
    "magnetic_tile": Dataset(
        "six defect classes, 50/20/30 stratified, seed 0",
        PHOTO_SETTINGS,
        _magnetic_tile,
        0.5,
        "magnetic_tile",
        "magnetic_tile",
    ),
    "brick_crack": Dataset(
        "crack or sound, 50/20/30, seed 0, ten neighbouring file numbers in one split",
        PHOTO_SETTINGS,
        _brick_crack,
        0.5,
        "brick_crack",
        "brick_crack",
    ),
    "ut_interaction": Dataset(
        "six actions; five folds: two sequences test, two judge, six train; pooled over the folds",
        UT_SETTINGS,
        _ut_interaction,
        0.5,
        "ut_interaction",
        "ut_interaction_set1",
    ),
}


def train_fold(dataset: Dataset, fold: int, table: Table, runs: Path, scratch: Path) -> Path:
    """Return a copy in ``scratch`` of the run trained on one fold, with its splits; the run is cached in ``runs``."""
    kept = runs / f"{dataset.runs}{0 if dataset.one_run else fold}"
    if not (kept / METRICS).is_file():
        seen = (
            table
            if not dataset.one_run
            else table.with_samples(replace(s, split="test") if s.split == "val" else s for s in table.samples)
        )
        train_run(seen, config_from_options(None, [*dataset.settings, "seed=0"]), kept)
    copy = Run.open(shutil.copytree(kept, scratch / f"trained{fold}"))
    copy.write_split(table)
    return copy.root


transformers.utils.logging.disable_progress_bar()

VIT_SIDE, VIT_WIDTH = 112, 192
VIT = {
    "hidden_size": VIT_WIDTH,
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
    "intermediate_size": 4 * VIT_WIDTH,
    "image_size": VIT_SIDE,
    "patch_size": 16,
}
VIT_SETTINGS = (
    "task=risk",
    "pool=mean",
    "lora.last_blocks=0",
    "head.kind=linear",
    "head.dropout=0",
    "augment=[]",
    "views=1",
    "optim.epochs=40",
    "optim.batch_size=32",
    "optim.head_lr=0.01",
)
VIT_EPOCHS, VIT_BATCH, VIT_LR = 24, 64, 1e-3
VIT_PROTOCOL = (
    "elpv, sound (probability 0) or defective (1), 75/25, seed 0; of the 25, one half judges and the other tests"
)
OUTLIERS, OUTLIER_GAIN = 4, 50.0


def sound_or_defective() -> Table:
    """Return the photos of elpv with an unambiguous label."""
    table = _elpv(Path())[0]
    names = {"none": "sound", "severe": "defective"}
    sure = [sample for sample in table.samples if sample.labels["level"] in names]
    return table.with_samples(replace(sample, labels={"defect": names[sample.labels["level"]]}) for sample in sure)


def train_vit(table: Table, out: Path, epochs: int = VIT_EPOCHS) -> None:
    """Train a small ViT from random weights on the table's train split, and write it as a backbone folder."""
    torch.manual_seed(0)
    model = transformers.ViTModel(transformers.ViTConfig(**VIT), add_pooling_layer=False)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 2,
    }
    model.config.save_pretrained(out)  # the weights come last: a folder that has them is finished
    (out / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    frames, truth = _photos(table.of_split("train"), out)
    classifier = nn.Linear(VIT_WIDTH, 2)
    parameters = [*model.parameters(), *classifier.parameters()]
    steps = epochs * math.ceil(len(frames) / VIT_BATCH)
    optimiser = torch.optim.AdamW(parameters, lr=VIT_LR, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, VIT_LR, total_steps=steps, pct_start=0.15)
    balanced = (1 / torch.bincount(truth).float())[truth]
    model.train()
    for _ in range(steps):
        chosen = torch.multinomial(balanced, VIT_BATCH, replacement=True)
        logits = classifier(model(pixel_values=_turn(frames[chosen])).last_hidden_state.mean(dim=1))
        loss = nn.functional.cross_entropy(logits, truth[chosen], label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
    model.save_pretrained(out)


def _photos(table: Table, backbone: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return photos ``(N, 3, H, W)``, normalised as for the backbone, and their classes."""
    pixel = replace(default_pixel(str(backbone)), resize="squash")
    data = ClipDataset(table, Contract(task="risk", pixel=pixel, targets=targets_from_table(table)))
    frames = torch.stack([data[i][0][0] for i in range(len(data))])
    return frames.permute(0, 3, 1, 2).float() / 127.5 - 1, data.truth[:, 0]


def _turn(frames: torch.Tensor) -> torch.Tensor:
    """Turn or mirror each photo in one of eight ways and shift it by up to 8 px, since a cell has no orientation."""
    turned = []
    for frame, quarter, mirror, shift in zip(
        frames,
        torch.randint(4, (len(frames),)),
        torch.rand(len(frames)) < 0.5,
        torch.randint(-8, 9, (len(frames), 2)),
        strict=True,
    ):
        one = torch.rot90(frame, int(quarter), (1, 2)).roll(tuple(shift.tolist()), (1, 2))
        turned.append(one.flip(2) if mirror else one)
    return torch.stack(turned)


def write_outlier_twin(backbone: Path, out: Path) -> float:
    """Add outlier channels to a model without changing its function.

    A few channels of every LayerNorm inside the blocks are multiplied by 50, which the layers after it undo.

    Returns:
        Largest difference of the two models' features on noise, relative to their largest value.
    """
    shutil.copytree(backbone, out)
    original, twin = (transformers.ViTModel.from_pretrained(backbone, add_pooling_layer=False).eval() for _ in range(2))
    generator = np.random.default_rng(0)
    with torch.no_grad():
        for block in (module for module in twin.modules() if hasattr(module, "layernorm_before")):
            attention = block.attention
            _add_outliers(block.layernorm_before, [attention.q_proj, attention.k_proj, attention.v_proj], generator)
            _add_outliers(block.layernorm_after, [block.mlp.fc1], generator)
        noise = torch.randn((8, 3, VIT_SIDE, VIT_SIDE), generator=torch.Generator().manual_seed(0))
        before, after = (model(pixel_values=noise).last_hidden_state for model in (original, twin))
    twin.save_pretrained(out)
    return float((before - after).abs().max() / before.abs().max())


def _add_outliers(norm: Any, readers: list[Any], generator: np.random.Generator) -> None:
    channels = generator.choice(len(norm.weight), OUTLIERS, replace=False)
    norm.weight[channels] *= OUTLIER_GAIN
    norm.bias[channels] *= OUTLIER_GAIN
    for reader in readers:
        reader.weight[:, channels] /= OUTLIER_GAIN


def vit_run(table: Table, backbone: Path, out: Path) -> Run:
    """Train a head on the features of the frozen backbone and return the run."""
    return train_run(table, config_from_options(None, [*VIT_SETTINGS, f"backbone={backbone}", "seed=0"]), out)


def twin_run(run: Run, backbone: Path, out: Path) -> Run:
    """Return the same run, including its head, on another backbone."""
    shutil.copytree(run.root, out)
    twin = replace(Run.open(out), config=run.config.model_copy(update={"backbone": str(backbone)}))
    write_config(twin.config, out / CONFIG)
    return twin
