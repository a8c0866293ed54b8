"""elpv-dataset: solar cells, 75/25 split stratified on the four levels, three seeds.

    python benchmarks/elpv.py [--seeds 3] [--runs DIR]

--runs keeps the run directories in DIR, and does not train the finished ones again.

One model answers both questions: four levels, and defective (probability ≥ ½) as the sum of the two upper levels. The
settings were fixed beforehand and are the same for all seeds; nothing is chosen on a test split. For comparison: a
logistic regression on the features of the frozen encoder, on the same splits.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vidrisk.data import Sample, Table
from vidrisk.demo import LEVELS, cell_photos
from vidrisk.inference.model import open_classifier
from vidrisk.jobs.evaluate import evaluate
from vidrisk.metrics.classification import classification_report
from vidrisk.models.config import config_from_options
from vidrisk.models.pretrained import build_classifier
from vidrisk.models.run import METRICS, Run
from vidrisk.train.dataset import ClipDataset
from vidrisk.train.train import train_run

SETTINGS = [
    "task=risk",
    "pool=stages",
    "pixel={height: 320, width: 320}",
    "lora.last_blocks=5",
    "lora.rank=16",
    "lora.alpha=16",
    "head.kind=linear",
    "head.dropout=0.3",
    "augment=[flip, updown]",
    "views=4",
    "optim.epochs=8",
    "optim.batch_size=32",
    "optim.lora_lr=0.001",
    "optim.head_lr=0.001",
    "optim.clip_norm=5",
]
RESULT = Path(__file__).parent / "results" / "elpv.json"
ORDER = tuple(LEVELS.values())
DEFECTIVE = 2  # levels from here on have a defect probability of at least ½


def table_of(seed: int) -> Table:
    """Return all photos, 75 % in train and 25 % in test, stratified on the level."""
    photos = sorted(cell_photos())
    train, _ = train_test_split(
        np.arange(len(photos)), test_size=0.25, random_state=seed, stratify=[level for _, level in photos]
    )
    chosen = set(train.tolist())
    samples = tuple(
        Sample(path=path, name=path.name, labels={"level": level}, split="train" if i in chosen else "test")
        for i, (path, level) in enumerate(photos)
    )
    return Table(photos[0][0].parent, "risk", samples)


def scores_of(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return the scores of both questions from the probabilities of the four levels."""
    levels = classification_report(truth, probabilities, ORDER, ordered=True)
    upper = probabilities[:, DEFECTIVE:].sum(axis=1).clip(0, 1)
    binary = classification_report(
        (truth >= DEFECTIVE).astype(int), np.stack([1 - upper, upper], axis=1), ("sound", "defective")
    )
    return {
        "binary_top1": binary.top1,
        "binary_macro_f1": binary.macro_f1,
        "levels_top1": levels.top1,
        "levels_macro_f1": levels.macro_f1,
    }


def frozen_features(run: Run, table: Table) -> dict[str, np.ndarray]:
    """Return the features of the encoder without its adapter, by photo; they are the same for every seed."""
    encoder = build_classifier(run.config, run.contract).eval().encoder
    data = ClipDataset(table, run.contract)
    with torch.inference_mode():
        return {sample.name: encoder(data[i][0]).numpy()[0] for i, sample in enumerate(data.samples)}


def frozen_scores(features: dict[str, np.ndarray], table: Table) -> dict[str, float]:
    """Return the scores of a logistic regression on the standardised features."""
    inputs = {split: np.stack([features[s.name] for s in table.of_split(split).samples]) for split in ("train", "test")}
    truth = {
        split: np.array([ORDER.index(s.labels["level"]) for s in table.of_split(split).samples]) for split in inputs
    }
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=2000)).fit(
        inputs["train"], truth["train"]
    )
    return scores_of(truth["test"], probe.predict_proba(inputs["test"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path)
    arguments = parser.parse_args()
    seeds, begin = arguments.seeds, time.perf_counter()
    training_s: list[float] = []
    features: dict[str, np.ndarray] = {}
    ours: list[dict[str, float]] = []
    frozen: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(seeds):
            table = table_of(seed)
            folder = (arguments.runs or Path(scratch)) / f"run{seed}"
            if not (folder / METRICS).is_file():
                train_run(table, config_from_options(None, [*SETTINGS, f"seed={seed}"]), folder)
            run = Run.open(folder)
            training_s.append(json.loads((folder / METRICS).read_text(encoding="utf-8"))["seconds"])
            with open_classifier(run.root) as classifier:
                probabilities = evaluate(classifier, table.of_split("test")).probabilities["level"]
            truth = np.array([ORDER.index(sample.labels["level"]) for sample in table.of_split("test").samples])
            ours.append(scores_of(truth, probabilities))
            print(f"seed {seed}: {ours[-1]} ({time.perf_counter() - begin:.0f} s)", flush=True)
            features = features or frozen_features(run, table)
            frozen.append(frozen_scores(features, table))
            print(f"seed {seed}, frozen: {frozen[-1]} ({time.perf_counter() - begin:.0f} s)", flush=True)
    rows = [
        {"name": name, **{key: float(np.mean([s[key] for s in scores])) for key in scores[0]}}
        for name, scores in (
            ("frozen features, logistic regression", frozen),
            ("LoRA on the last five blocks, jointly with the head", ours),
        )
    ]
    result = {
        "dataset": "elpv-dataset",
        "protocol": "75/25 stratified on four levels, mean over seeds",
        "settings": SETTINGS,
        "rows": rows,
        "per_seed": ours,
        "frozen_per_seed": frozen,
        "training_s": training_s,
        "machine": describe_machine(),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
