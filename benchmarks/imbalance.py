"""Rare classes: the recall with each rule of `optim.class_weights`, and the calibration of its probabilities.

    python benchmarks/imbalance.py [--threads 1]

1. Features from two Gaussians, whose best classifier is known. The probe from which a head starts is fitted on 4,000
   samples of the frequent class and few of the rare one: three draws, evaluated on 60,000 samples with the same class
   frequencies.
2. Photos of 32 px, of noise and of noise with a dark line, through `train` from files to test metrics. The test split
   always has 100 rare photos, enough to measure their recall; the metrics are weighted to the class frequencies of the
   training split.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from PIL import Image

from vidrisk.data import Sample, Table
from vidrisk.inference.model import open_classifier
from vidrisk.jobs.evaluate import evaluate
from vidrisk.metrics.multi_label import average_precision
from vidrisk.models.config import config_from_options
from vidrisk.runtimes.contract.contract import Target
from vidrisk.train.probe_choice import fit_start
from vidrisk.train.train import train_run

RESULT = Path(__file__).parent / "results" / "imbalance.json"
RULES = ("none", "drawn", "balanced")
ACTION = Target(name="action", labels=("frequent", "rare"))
WIDTH, INFORMATIVE, DISTANCE = 64, 8, 6.0
FREQUENT, JUDGED, DRAWS = 4000, 60_000, 3
SIDE_PX = 32
BINS = 15


def figures(probabilities: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Return scores of the rare class's probability, weighted to the class frequencies of the training split."""
    answers = (probabilities >= 0.5).astype(int)
    scores = []
    for label in (0, 1):
        hits = weights[(answers == label) & (truth == label)].sum()
        scores.append(2 * hits / max(weights[answers == label].sum() + weights[truth == label].sum(), 1e-12))
    sure, right = np.maximum(probabilities, 1 - probabilities), answers == truth
    places = np.minimum((sure * BINS).astype(int), BINS - 1)
    ece = sum(abs((weights * (sure - right))[places == place].sum()) for place in range(BINS)) / weights.sum()
    likelihood = np.log(np.clip(np.where(truth == 1, probabilities, 1 - probabilities), 1e-7, 1))
    return {
        "macro_f1": float(np.mean(scores)),
        "recall": float(answers[truth == 1].mean()),
        "ece": float(ece),
        "average_precision": float(average_precision(truth == 1, probabilities)),
        "loss": float(-(weights * likelihood).sum() / weights.sum()),
    }


def draw_samples(rng: np.random.Generator, frequent: int, rare: int) -> tuple[np.ndarray, np.ndarray]:
    truth = np.r_[np.zeros(frequent, np.int64), np.ones(rare, np.int64)]
    features = rng.normal(size=(len(truth), WIDTH)).astype(np.float32)
    features[truth == 1, :INFORMATIVE] += DISTANCE / np.sqrt(INFORMATIVE)
    return features, truth


def gaussians(rare: int) -> list[dict[str, Any]]:
    """Fit probes on a number of samples of the rare class, and compare them with the optimal classifier."""
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        features, truth = draw_samples(rng, FREQUENT, rare)
        judged, answers = draw_samples(rng, JUDGED, max(JUDGED * rare // FREQUENT, 100))
        weights = np.where(answers == 1, JUDGED * rare / FREQUENT / answers.sum(), 1.0)
        evidence = judged[:, :INFORMATIVE].sum(1) * DISTANCE / np.sqrt(INFORMATIVE) - DISTANCE**2 / 2
        best = 1 / (1 + np.exp(-(np.log(rare / FREQUENT) + evidence)))
        found.setdefault("best possible", []).append(figures(best, answers, weights))
        table = Table(
            Path(),
            "action",
            tuple(
                Sample(Path(f"{i}.png"), f"{i}.png", {"action": ACTION.labels[label]}) for i, label in enumerate(truth)
            ),
        )
        for rule in RULES[:2]:
            config = config_from_options(None, [f"optim.class_weights={rule}", f"seed={seed}"])
            weight, bias = fit_start(
                features, truth, truth, np.arange(len(truth)), np.zeros(len(truth), np.int64), ACTION, table, config
            )
            probabilities = (torch.from_numpy(judged) @ weight.T + bias).softmax(1)[:, 1].numpy().astype(np.float64)
            found.setdefault(rule, []).append(figures(probabilities, answers, weights))
    return [
        {
            "frequent": FREQUENT,
            "rare": rare,
            "rule": rule,
            **{key: float(np.mean([each[key] for each in every])) for key in every[0]},
        }
        for rule, every in found.items()
    ]


def write_photos(folder: Path, frequent: int, rare: int) -> Table:
    """Write photos: a train split, a val split of an eighth with one rare photo, a test split of 800 and 100."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    samples = []
    for split, counts in (("train", (frequent, rare)), ("val", (frequent // 8, 1)), ("test", (800, 100))):
        for label, count in zip(ACTION.labels, counts, strict=True):
            for number in range(count):
                pixels = rng.normal(110, 25, (SIDE_PX, SIDE_PX, 3)) + rng.normal(0, 20, 3)
                if label == "rare":
                    row = int(rng.integers(4, SIDE_PX - 8))
                    pixels[row : row + 3] -= 60
                path = folder / f"{split}-{label}-{number}.png"
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
                samples.append(Sample(path, path.name, {"action": label}, split=split))  # type: ignore[arg-type]
    return Table(folder, "action", tuple(samples))


def photos(scratch: Path, frequent: int, rare: int) -> list[dict[str, Any]]:
    table = write_photos(scratch / f"photos{frequent}", frequent, rare)
    test = table.of_split("test")
    truth = np.array([ACTION.labels.index(str(sample.labels["action"])) for sample in test.samples])
    weights = np.where(truth == 1, (truth == 0).sum() * rare / frequent / (truth == 1).sum(), 1.0)
    rows = []
    for rule in RULES:
        settings = [
            f"pixel.height={SIDE_PX}",
            f"pixel.width={SIDE_PX}",
            "optim.epochs=2",
            "precision=fp32",
            f"optim.class_weights={rule}",
        ]
        run = train_run(
            table, config_from_options(None, settings, backbone="efficientnet-lite0"), scratch / f"{frequent}-{rule}"
        )
        with open_classifier(run.root) as classifier:
            probabilities = evaluate(classifier, test).probabilities["action"][:, 1]
        rows.append({"frequent": frequent, "rare": rare, "rule": rule, **figures(probabilities, truth, weights)})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    features = [row for rare in (40, 4, 2) for row in gaussians(rare)]
    for row in features:
        print(row, flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        of_photos = [row for counts in ((4000, 4), (5000, 1)) for row in photos(Path(scratch), *counts)]
    RESULT.write_text(
        json.dumps({"gaussians": features, "photos": of_photos, "machine": describe_machine()}, indent=2) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
