"""Evaluate `vidrisk data suspects` (wrong labels) and `vidrisk data curve` (are there enough labels?).

    python benchmarks/labels.py DATA [--seeds 5]

DATA contains `magnetic_tile` and `brick_crack`; elpv comes from its package. Every photo is encoded once, by
EfficientNet-Lite0 with the settings of the commands.

Wrong labels: 5 % of elpv's photos, drawn at random, get another random label. The result is the share of them among the
10 % most suspected photos, for its four levels and for two (defective or not, as defined by its authors). elpv's own
labels also contain errors.

Learning curve: a random half of the photos forecasts the accuracy with twice as many; the reference is the same
cross-validation on all photos. A forecast is correct if the reference is within its interval of 90 %.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import DATASETS
from elpv import DEFECTIVE, ORDER, table_of
from machine import describe_machine

from vidrisk.data import Table
from vidrisk.models.config import config_from_options
from vidrisk.runtimes.contract.progress import ignore_progress
from vidrisk.train.data_curve import measure_curve
from vidrisk.train.label_suspects import find_suspects, table_of_suspects
from vidrisk.train.summaries import Summaries, summarise_table

RESULT = Path(__file__).parent / "results" / "labels.json"
WRONG, LOOKED_AT = 0.05, 0.1


def part_of(summaries: Summaries, rows: np.ndarray) -> Summaries:
    """Return the summaries of some samples, in the order of ``rows``."""
    return replace(
        summaries,
        table=summaries.table.with_samples(summaries.table.samples[row] for row in rows),
        features=summaries.features[rows],
        truth={name: truth[rows] for name, truth in summaries.truth.items()},
    )


def with_labels(summaries: Summaries, numbers: np.ndarray, labels: tuple[str, ...]) -> Summaries:
    """Return the summaries with other labels for their one target."""
    (target,) = summaries.contract.targets
    contract = summaries.contract.model_copy(update={"targets": (target.model_copy(update={"labels": labels}),)})
    samples = (
        replace(sample, labels={target.name: labels[number]})
        for sample, number in zip(summaries.table.samples, numbers, strict=True)
    )
    return replace(
        summaries, contract=contract, truth={target.name: numbers}, table=summaries.table.with_samples(samples)
    )


def measure_suspects(summaries: Summaries, seed: int) -> float:
    """Flip labels, and return the share of the flipped ones among the most suspected."""
    (target,) = summaries.contract.targets
    truth, classes = summaries.truth[target.name], len(target.labels)
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(truth), round(WRONG * len(truth)), replace=False)
    wrong = truth.copy()
    wrong[rows] = (truth[rows] + rng.integers(1, classes, len(rows))) % classes
    found = find_suspects(with_labels(summaries, wrong, target.labels), seed=seed)
    most = table_of_suspects(found, summaries.table, round(LOOKED_AT * len(truth))).samples
    flipped = {summaries.table.samples[row].name for row in rows}
    return sum(sample.name in flipped for sample in most) / len(flipped)


def forecast(summaries: Summaries, seed: int) -> dict[str, Any]:
    """Forecast from half of the samples, and compare with the result on all of them."""
    (target,) = summaries.contract.targets
    count = len(summaries.table)
    half = np.sort(np.random.default_rng(seed).permutation(count)[: count // 2])
    curve = measure_curve(part_of(summaries, half), target, ignore_progress, seed=seed)
    whole = measure_curve(summaries, target, ignore_progress, seed=seed)
    size = max(whole.scores)
    score = float(np.mean(whole.scores[size]))
    low, high = curve.forecast.interval
    return {
        "seed": seed,
        "known": max(curve.scores),
        "score_known": float(np.mean(curve.scores[max(curve.scores)])),
        "ahead": curve.forecast.samples,
        "forecast": curve.forecast.score,
        "interval": [low, high],
        "measured_at": size,
        "measured": score,
        "is_within": low <= score <= high,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    begin = time.perf_counter()
    config = config_from_options(None, ["task=risk"])

    def log_numbers(*what: object) -> None:
        print(*what, f"({time.perf_counter() - begin:.0f} s)", flush=True)

    tables: dict[str, Callable[[], Table]] = {
        "elpv": lambda: table_of(0),
        **{
            name: lambda name=name: DATASETS[name].tables(arguments.data)[0]  # type: ignore[misc]
            for name in ("magnetic_tile", "brick_crack")
        },
    }
    flipped, curves = [], []
    for name, table in tables.items():
        summaries = summarise_table(table(), config, ignore_progress)
        log_numbers(name, summaries)
        if name == "elpv":
            (target,) = summaries.contract.targets
            level = np.array([ORDER.index(label) for label in target.labels])[summaries.truth[target.name]]
            for labels, numbers in ((ORDER, level), (("sound", "defective"), (level >= DEFECTIVE).astype(np.int64))):
                shares = [
                    measure_suspects(with_labels(summaries, numbers, labels), seed) for seed in range(arguments.seeds)
                ]
                flipped.append({"labels": [*labels], "samples": len(level), "found": shares})
                log_numbers(labels, shares)
        rows = [forecast(summaries, seed) for seed in range(arguments.seeds)]
        curves.append({"dataset": name, "rows": rows})
        log_numbers(*rows)
    result = {
        "settings": config.model_dump(mode="json", exclude_defaults=True),
        "wrong": WRONG,
        "looked_at": LOOKED_AT,
        "flipped": flipped,
        "curves": curves,
        "threads": torch.get_num_threads(),
        "machine": describe_machine(),
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
