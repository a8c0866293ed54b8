"""Compare epochs over cached features of a frozen encoder with epochs that decode and encode every clip again.

    python benchmarks/kept_features.py [--small]

The model is a probe: the frozen EfficientNet-Lite0 (``lora.last_blocks=0``) and a head that is trained on clips. Only
the order of the clips is random, so all three variants do the same work; a run is refused unless the mean loss of every
epoch agrees.

    anew             cache_mb=0, disk_cache_mb=0: every epoch decodes and encodes
    frames kept      views=0: the first epoch decodes, every epoch encodes
    features kept    views=1: the first epoch decodes and encodes; the default, with more views if clips are augmented

The variants run in turns in one process; the order within a turn rotates, and the first turn is not counted. The first
epoch is timed from the first read of a file to the first step of the second epoch, including the creation of the model;
a later epoch from its first step to the next epoch's first step. A run has seven epochs, and the median of the five
complete later ones is reported. --small: few small clips, one thread and one turn, to check that it runs; writes
nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine
from quiet import measure_quietly
from small_clips import write_clips

from vidrisk.data import Table
from vidrisk.models.config import config_from_options
from vidrisk.train.train import train_run

RESULT = Path(__file__).parent / "results" / "kept_features.json"
EPOCHS, FRAMES, BATCH = 7, 8, 8
ANEW, FRAMES_KEPT, FEATURES_KEPT = "anew", "frames kept", "features kept"
WAYS = {ANEW: ("cache_mb=0", "disk_cache_mb=0"), FRAMES_KEPT: ("views=0",), FEATURES_KEPT: ("views=1",)}
MOST_APART = 1e-2  # relative difference of losses: kept features are float16


class PhaseClock:
    """An ``on_progress`` callback of training that records when phases begin.

    Attributes:
        begin_s: time at which each phase began, by name.
    """

    def __init__(self) -> None:
        self.begin_s: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        self.begin_s.setdefault(what, time.perf_counter())


@dataclass(frozen=True)
class Trained:
    """The seconds and the mean loss of every epoch of a run."""

    first_s: float
    later_s: float
    losses: list[float]


def train(table: Table, side_px: int, way: str) -> Trained:
    clock = PhaseClock()
    config = config_from_options(
        None,
        [
            "lora.last_blocks=0",
            "augment=[]",
            "head.dropout=0",
            "precision=fp32",
            f"frames={FRAMES}",
            f"pixel.height={side_px}",
            f"pixel.width={side_px}",
            f"optim.epochs={EPOCHS}",
            f"optim.batch_size={BATCH}",
            *WAYS[way],
        ],
    )
    with tempfile.TemporaryDirectory() as out:
        train_run(table, config, Path(out), on_progress=clock)
        epochs = json.loads((Path(out) / "metrics.json").read_text(encoding="utf-8"))["epochs"]
    if ("running the frozen layers" in clock.begin_s) != (way == FEATURES_KEPT):
        raise SystemExit(f"{way} is not what was trained: {[*clock.begin_s]}")
    begins = [clock.begin_s[f"epoch {number}/{EPOCHS}"] for number in range(1, EPOCHS + 1)]
    later = [end - begin for begin, end in pairwise(begins[1:])]
    return Trained(
        begins[1] - clock.begin_s["reading train"], statistics.median(later), [epoch["train_loss"] for epoch in epochs]
    )


def measure(table: Table, side_px: int, turns: int) -> dict[str, Any]:
    runs: dict[str, list[Trained]] = {way: [] for way in WAYS}
    apart = 0.0
    for turn in range(turns + 1):
        found = {
            way: measure_quietly(partial(train, table, side_px, way))
            for way in [*WAYS][turn % len(WAYS) :] + [*WAYS][: turn % len(WAYS)]
        }
        for way in WAYS:
            apart = max(
                apart,
                *(abs(one - other) / other for one, other in zip(found[way].losses, found[ANEW].losses, strict=True)),
            )
        if apart > MOST_APART:
            raise SystemExit(f"other work: { ({way: each.losses for way, each in found.items()}) }")
        for way in WAYS if turn else ():
            runs[way].append(found[way])
        print({way: (round(each.first_s, 3), round(each.later_s, 4)) for way, each in found.items()}, apart, flush=True)
    rows = []
    for way, trained in runs.items():
        times = [anew.later_s / own.later_s for anew, own in zip(runs[ANEW], trained, strict=True)]
        rows.append(
            {
                "name": way,
                "first_s": statistics.median(each.first_s for each in trained),
                "later_s": statistics.median(each.later_s for each in trained),
                "times_anew": statistics.median(times),
                "least": min(times),
                "most": max(times),
            }
        )
    return {"rows": rows, "turns": turns, "losses_apart": apart}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    clips, clip_px, side_px, turns, threads = (
        (2 * BATCH, 64, 64, 1, 1) if arguments.small else (6 * BATCH, 320, 224, 2, 2)
    )
    torch.set_num_threads(threads)
    logging.getLogger("vidrisk").setLevel(
        logging.ERROR
    )  # it warns that there is no val split, and no room to keep anything
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(write_clips(Path(scratch) / "clips", clips, clip_px), side_px, turns)
    found |= {
        "clips": clips,
        "clip_px": clip_px,
        "side_px": side_px,
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
