"""UT-Interaction set 1, leave one sequence out: 60 clips, 10 folds, top-1.

    python benchmarks/ut_interaction.py DATA

Encoder frozen, head `segments`; every fold is a full `vidrisk train` on nine sequences and an `eval` on the tenth. Settings
are fixed for all folds: nothing is chosen on a test fold. The confusion matrix is summed over the folds.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from machine import described

from vidrisk.data import Table, load_table
from vidrisk.inference.model import open_classifier
from vidrisk.jobs.evaluate import evaluate
from vidrisk.models.config import config_from_options
from vidrisk.train.train import train_run

SETTINGS = ["frames=16", "lora.last_blocks=0", "augment=[flip]", "views=2", "head.kind=segments", "head.dropout=0.5",
            "optim.epochs=40", "optim.batch_size=64", "optim.head_lr=0.0001", "optim.label_smoothing=0.1"]
RESULT = Path(__file__).parent / "results" / "ut_interaction.json"


def folds(table: Table) -> list[tuple[str, Table]]:
    """Ten tables, each with one sequence as its test split and the others as its train split."""
    sequence = {sample.name: re.search(r"seq(\d+)", sample.name)[1] for sample in table.samples}  # type: ignore[index]
    return [(held_out, table.with_samples(replace(s, split="test" if sequence[s.name] == held_out else "train")
                                          for s in table.samples)) for held_out in sorted(set(sequence.values()))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    begin = time.perf_counter()
    seeds = []
    for seed in range(arguments.seeds):
        confusion: np.ndarray | None = None
        for number, (name, table) in enumerate(folds(load_table(arguments.data, "action"))):
            with tempfile.TemporaryDirectory() as scratch:
                run = train_run(table, config_from_options(None, [*SETTINGS, f"seed={seed}"]), Path(scratch) / "run")
                with open_classifier(run.root) as classifier:
                    metrics = evaluate(classifier, table.of_split("test")).metrics["action"]
            counts = np.asarray(metrics.confusion)
            confusion = counts if confusion is None else confusion + counts
            print(f"seed {seed}, sequence {name}: {metrics.top1:.3f} ({time.perf_counter() - begin:.0f} s, fold {number + 1}/10)",
                  flush=True)
        assert confusion is not None
        seeds.append({"seed": seed, "top1": float(np.trace(confusion) / confusion.sum()), "confusion": confusion.tolist()})
    result = {"dataset": "UT-Interaction set 1", "protocol": "leave one sequence out, 10 folds, top-1 over 60 clips",
              "labels": [label.label for label in metrics.per_class], "settings": SETTINGS, "seeds": seeds,
              "top1": float(np.mean([s["top1"] for s in seeds])), "seconds": round(time.perf_counter() - begin),
              "machine": described()}
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("top1", "seconds")}))


if __name__ == "__main__":
    main()
