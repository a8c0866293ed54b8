"""Measure the cost of clips in training: the share of a step that is loading, and memory by number of clips.

    python benchmarks/training_data.py loading|memory [--small]

loading: LoRA on all blocks of EfficientNet-Lite0, so every step needs frames. Before the first step every file is
decoded once, and its frames are kept in memory or in a file on disk; every epoch reads them from there. The loading
time of a step ends when its frames form a batch; augmentation is not part of it.

memory: a probe on 100, 1,000 and 10,000 clips, each in its own process, with 64 MB for decoded frames and views (the
rest goes to the file on disk). The result is the largest private memory of the process, sampled ten times a second;
pages mapped from files are not counted, since the system can reclaim them. Every clip is a separate file, a copy of one
of twelve.

--small: few clips, to check that it runs; writes nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from machine import describe_machine
from quiet import measure_quietly
from small_clips import write_clips

from vidrisk.data import Table
from vidrisk.models.config import TrainConfig, config_from_options
from vidrisk.train.class_work import Classification
from vidrisk.train.train import train_run

RESULT = Path(__file__).parent / "results" / "training_data.json"
PLACES = {"in memory": "cache_mb=4096", "on disk": "cache_mb=0"}
EPOCHS, BATCH, FRAMES = 4, 8, 8
CACHE_MB = 64


def measure_loading(clips: int, side_px: int) -> list[dict[str, Any]]:
    """Train, and return the share of loading, median over epochs, for frames in memory and on disk."""
    loading: list[float] = []
    epochs: list[float] = []
    inputs = Classification.inputs

    def time_inputs(self: Classification, *arguments: Any) -> Iterator[Any]:
        begin, waited = time.perf_counter(), 0.0
        source = inputs(self, *arguments)
        while True:
            asked = time.perf_counter()
            item = next(source, None)
            waited += time.perf_counter() - asked
            if item is None:
                break
            yield item
        loading.append(waited)
        epochs.append(time.perf_counter() - begin)

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        table = write_clips(Path(scratch) / "clips", clips, side_px)
        for place, setting in PLACES.items():
            config = config_from_options(
                None,
                [
                    "lora.last_blocks=null",
                    "head.kind=linear",
                    "head.start=zero",
                    "augment=[]",
                    "precision=fp32",
                    "views=0",
                    f"frames={FRAMES}",
                    f"optim.epochs={EPOCHS}",
                    f"optim.batch_size={BATCH}",
                    setting,
                ],
            )

            def train(config: TrainConfig = config) -> None:
                loading.clear()
                epochs.clear()
                with tempfile.TemporaryDirectory(dir=scratch) as out:
                    train_run(table, config, Path(out) / "run")

            with mock.patch.object(Classification, "inputs", time_inputs):
                measure_quietly(train)
            shares = [waited / whole for waited, whole in zip(loading, epochs, strict=True)]
            rows.append(
                {
                    "frames": place,
                    "share": statistics.median(shares),
                    "most": max(shares),
                    "step_s": statistics.median(epochs) / (clips / BATCH),
                }
            )
            print(rows[-1], flush=True)
    return rows


def copy_table(folder: Path, clips: int) -> Table:
    """Write twelve small clips, and copy them until there are enough."""
    few = write_clips(folder / "few", 12)
    (folder / "clips").mkdir()
    samples = []
    for number in range(clips):
        sample = few.samples[number % len(few)]
        path = folder / "clips" / f"{number}.mp4"
        shutil.copyfile(sample.path, path)
        samples.append(replace(sample, path=path, name=path.name))
    return Table(folder / "clips", "action", tuple(samples))


def train_once(clips: int) -> None:
    """Train on a number of clips, and print the peak private memory of the process in MiB."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        table = copy_table(Path(scratch), clips)
        config = config_from_options(
            None,
            [
                "lora.last_blocks=0",
                "head.kind=linear",
                "augment=[flip]",
                "views=2",
                "frames=8",
                "pixel={height: 64, width: 64}",
                f"cache_mb={CACHE_MB}",
                "optim.epochs=2",
                "optim.batch_size=32",
            ],
        )
        begin = time.perf_counter()
        with own_memory() as held:
            train_run(table, config, Path(scratch) / "run")
        seconds = time.perf_counter() - begin
    print(json.dumps({"clips": clips, "peak_mb": max(held), "seconds": seconds}))


@contextmanager
def own_memory() -> Iterator[list[float]]:
    """Sample the private memory of the process, in MiB, while the block runs."""
    held: list[float] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.1):
            status = Path("/proc/self/status").read_text(encoding="ascii")
            held.append(int(status.partition("RssAnon:")[2].split()[0]) / 2**10)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield held
    finally:
        is_over.set()
        watcher.join()


def measure_memory(counts: tuple[int, ...]) -> list[dict[str, Any]]:
    rows = []
    for count in counts:
        command = [sys.executable, __file__, "once", "--clips", str(count)]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(ended.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["loading", "memory", "once"])
    parser.add_argument("--clips", type=int, default=100, help="of one run of memory")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger("vidrisk").setLevel(logging.ERROR)  # it warns that there is no val split
    if arguments.part == "once":
        train_once(arguments.clips)
        return
    if arguments.part == "loading":
        clips, side_px, threads = (BATCH, 64, 1) if arguments.small else (6 * BATCH, 320, 2)
        torch.set_num_threads(threads)
        found: dict[str, Any] = {"loading": measure_loading(clips, side_px)}
    else:
        found = {"memory": measure_memory((12, 24) if arguments.small else (100, 1_000, 10_000)), "cache_mb": CACHE_MB}
    if not arguments.small:
        known = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
        RESULT.write_text(
            json.dumps({**known, **found, "machine": describe_machine()}, indent=1) + "\n", encoding="utf-8"
        )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
