"""UT-Interaction set 1, leave one sequence out: 60 clips, 10 folds, top-1.

    python benchmarks/ut_interaction.py DATA [--recipe default|tuned|fixed] [--seeds 1]

Every fold is a full training on nine sequences and an `eval` on the tenth, which is not used for any choice. The
confusion matrix is summed over the folds. The recipes differ in how they were chosen:

    default   vidrisk's defaults; cross-validation on the nine sequences of a fold chooses its head and weight decay
    tuned     nested: `vidrisk train --tune 6` searches in each fold, on its nine sequences only
    fixed     one recipe for all folds, found on these 60 clips before there were defaults for clips: too optimistic

All clips are of one scene: the test clips have the same background as the training clips. Other scenes are harder.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine

from vidrisk.data import Table, load_table
from vidrisk.inference.model import open_classifier
from vidrisk.jobs.evaluate import evaluate
from vidrisk.models.config import config_from_options
from vidrisk.train.train import train_run
from vidrisk.train.tune_space import Tuning

RECIPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "tuned": (),
    "fixed": (
        "frames=16",
        "lora.last_blocks=0",
        "augment=[flip]",
        "views=2",
        "head.kind=segments",
        "head.dropout=0.5",
        "head.start=zero",
        "optim.epochs=40",
        "optim.batch_size=64",
        "optim.head_lr=0.0001",
        "optim.label_smoothing=0.1",
    ),
}
TRIALS = 6  # of a search
RESULT = Path(__file__).parent / "results" / "ut_interaction.json"
SEQUENCE = r"seq(\d+)"


def folds(table: Table) -> list[tuple[str, Table]]:
    """Return ten tables, each with one sequence as its test split and the others as its train split."""
    sequence = {sample.name: re.search(SEQUENCE, sample.name)[1] for sample in table.samples}  # type: ignore[index]
    return [
        (
            held_out,
            table.with_samples(
                replace(
                    sample, split="test" if sequence[sample.name] == held_out else "train", group=sequence[sample.name]
                )
                for sample in table.samples
            ),
        )
        for held_out in sorted(set(sequence.values()))
    ]


def measure(data: Path, recipe: str, seed: int) -> dict[str, Any]:
    """Train and evaluate ten folds."""
    tune = Tuning(TRIALS) if recipe == "tuned" else None
    begin = time.perf_counter()
    confusion: np.ndarray | None = None
    chosen = []
    for number, (name, table) in enumerate(folds(load_table(data, "action"))):
        with tempfile.TemporaryDirectory() as scratch:
            config = config_from_options(None, [*RECIPES[recipe], f"seed={seed}"])
            run = train_run(table, config, Path(scratch) / "run", tune=tune)
            chosen.append(
                {"head": run.config.head.kind, "rgb_diff": run.config.rgb_diff, "blocks": run.config.lora.last_blocks}
            )
            with open_classifier(run.root) as classifier:
                metrics = evaluate(classifier, table.of_split("test")).metrics["action"]
        counts = np.asarray(metrics.confusion)
        confusion = counts if confusion is None else confusion + counts
        print(
            f"seed {seed}, sequence {name}: {metrics.top1:.3f} "
            f"({time.perf_counter() - begin:.0f} s, fold {number + 1}/10)",
            flush=True,
        )
    assert confusion is not None
    return {
        "seed": seed,
        "top1": float(np.trace(confusion) / confusion.sum()),
        "confusion": confusion.tolist(),
        "chosen": chosen,
        "labels": [label.label for label in metrics.per_class],
        "seconds": round(time.perf_counter() - begin),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder ut_interaction_set1")
    parser.add_argument("--recipe", choices=RECIPES, default="default")
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    seeds = [measure(arguments.data, arguments.recipe, seed) for seed in range(arguments.seeds)]
    known = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    top1 = float(np.mean([each["top1"] for each in seeds]))
    result = {
        **known,
        arguments.recipe: {
            "settings": [*RECIPES[arguments.recipe]],
            "seeds": seeds,
            "top1": top1,
            "machine": describe_machine(),
        },
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({arguments.recipe: top1}))


if __name__ == "__main__":
    main()
