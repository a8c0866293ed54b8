"""Compare heads that start at a probe or at zero, with and without averaged weights, on photos of magnetic tiles.

    python benchmarks/starts.py DATA

DATA contains `magnetic_tile`: 536 photos of six classes. They are split six times, 50/20/30 and stratified. For each
split, a head on a frozen encoder is trained four times with the settings of ``int8.py``; only ``head.start`` and
``optim.average`` differ. The best epoch on the val split is evaluated on the test split.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import PHOTO_SETTINGS
from machine import describe_machine

from vidrisk.data import Table, load_table, split_table
from vidrisk.models.config import config_from_options
from vidrisk.models.run import METRICS
from vidrisk.train.train import train_run

RESULT = Path(__file__).parent / "results" / "starts.json"
AVERAGE = "optim.average=0.99"
WAYS: dict[str, tuple[str, ...]] = {
    "probe": (),
    "probe, moving average": (AVERAGE,),
    "zero": ("head.start=zero",),
    "zero, moving average": ("head.start=zero", AVERAGE),
}
SEEDS = range(6)


def test_scores(table: Table, settings: tuple[str, ...], seed: int) -> dict[str, float]:
    """Train, and return the test scores in ``metrics.json``."""
    config = config_from_options(None, [*PHOTO_SETTINGS, f"seed={seed}", *settings])
    with tempfile.TemporaryDirectory() as folder:
        run = train_run(split_table(table, ratios=(5, 2, 3), seed=seed), config, Path(folder) / "run")
        metrics = json.loads((run.root / METRICS).read_text(encoding="utf-8"))
    found = metrics["test"]["defect"]
    return {"top1": found["top1"], "macro_f1": found["macro_f1"], "best_epoch": metrics["best_epoch"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = load_table(arguments.data / "magnetic_tile" / "labels.csv", "risk")
    rows: list[dict[str, Any]] = []
    for start, settings in WAYS.items():
        seeds = []
        for seed in SEEDS:
            seeds.append(test_scores(table, settings, seed))
            print(start, seed, seeds[-1], flush=True)
        rows.append(
            {
                "start": start,
                **{name: statistics.mean(each[name] for each in seeds) for name in ("top1", "macro_f1")},
                "seeds": seeds,
            }
        )
    RESULT.write_text(
        json.dumps({"rows": rows, "photos": len(table), "machine": describe_machine()}, indent=1) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
