"""Measure the coverage of label sets on held-out labels, over 50 random splits of elpv-dataset.

    python benchmarks/coverage.py [--splits 50]

The frozen EfficientNet-Lite0 of ``elpv.py`` encodes every photo once, at 224². Each split is stratified on the level:
half of the photos train a logistic regression, 512 fit the temperature and the thresholds (as many samples as an export
uses), and the rest measure coverage, the share of answers that are certain, and accuracy. One model answers two
questions: four levels, and defective or not as the sum of the two upper levels. The largest level has 14 times as many
photos as the smallest, so the two rarest share a threshold.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from elpv import DEFECTIVE, ORDER, SETTINGS
from machine import describe_machine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vidrisk.calibration.conformal import fit_thresholds, place_of_threshold
from vidrisk.calibration.temperature import fit_temperature
from vidrisk.data import Sample, Table
from vidrisk.demo import cell_photos
from vidrisk.metrics.certainty import certainty_report
from vidrisk.models.config import config_from_options
from vidrisk.models.pretrained import build_classifier, contract_from_config, resolve_config
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits
from vidrisk.runtimes.uncertainty import Uncertainty, label_sets
from vidrisk.train.dataset import ClipDataset
from vidrisk.train.train import labels_from_table

RESULT = Path(__file__).parent / "results" / "coverage.json"
CALIBRATION = 512
ASKED = (0.8, 0.9, 0.95)
BATCH = 4
PIXEL = "pixel={height: 224, width: 224}"
TARGETS = (Target(name="level", labels=ORDER, ordered=True), Target(name="defective", labels=("no", "yes")))


def read_features() -> tuple[np.ndarray, np.ndarray]:
    """Return the features ``(N, D)`` of all photos and their levels ``(N,)``."""
    photos = sorted(cell_photos())
    table = Table(
        photos[0][0].parent,
        "risk",
        tuple(Sample(path=path, name=path.name, labels={"level": level}, split="train") for path, level in photos),
    )
    config = config_from_options(None, [*SETTINGS, PIXEL])
    labels = labels_from_table(table, config)
    config = resolve_config(config, clips=False)
    contract = contract_from_config(config, labels)
    encoder = build_classifier(config, contract).eval().encoder
    data = ClipDataset(table, contract)
    parts = []
    with torch.inference_mode():
        for begin in range(0, len(data), BATCH):
            frames = torch.cat([data[i][0] for i in range(begin, min(begin + BATCH, len(data)))])
            parts.append(encoder(frames).numpy())
    return np.concatenate(parts), np.array([ORDER.index(level) for _, level in photos])


def probe_split(features: np.ndarray, levels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return level probabilities ``(N, 4)`` of a probe trained on half of the photos, and two sets of indices.

    The first set is for calibration, the second for evaluation.
    """
    train, rest = train_test_split(np.arange(len(levels)), train_size=0.5, random_state=seed, stratify=levels)
    calibration, test = train_test_split(rest, train_size=CALIBRATION, random_state=seed, stratify=levels[rest])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=500)).fit(
        features[train], levels[train]
    )
    return probe.predict_proba(features), calibration, test


def measure_split(
    probabilities: np.ndarray, truth: np.ndarray, calibration: np.ndarray, test: np.ndarray, target: Target
) -> list[dict[str, Any]]:
    """Return a row per requested coverage, each with the same figures for one threshold shared by all labels."""
    logits = np.log(np.maximum(probabilities, 1e-12)).astype(np.float32)
    temperature = fit_temperature(logits[calibration], truth[calibration])
    judged, fresh = (probabilities_from_logits(logits[part], temperature) for part in (calibration, test))
    of_truth = np.sort(judged[np.arange(len(calibration)), truth[calibration]])[::-1]

    def measure_thresholds(thresholds: tuple[float, ...], asked: float) -> dict[str, Any]:
        found = certainty_report(truth[test], fresh, target, Uncertainty(asked, {target.name: thresholds}))
        covered = label_sets(fresh, np.array(thresholds))[np.arange(len(test)), truth[test]]
        return {
            "coverage": found.coverage,
            "kept": found.kept,
            "accuracy_of_kept": found.accuracy_of_kept,
            "accuracy": found.accuracy,
            "area": found.curve.area,
            "coverage_of": {label: float(covered[truth[test] == i].mean()) for i, label in enumerate(target.labels)},
        }

    rows = []
    for asked in ASKED:
        fit = fit_thresholds(judged, truth[calibration], target.labels, asked)
        by_label = {label: group.threshold for group in fit.groups for label in group.labels}
        alone = float(of_truth[place_of_threshold(len(of_truth), asked) - 1])
        rows.append(
            {
                "asked": asked,
                "groups": [list(group.labels) for group in fit.groups],
                "fitted_kept": fit.kept,
                "fitted_accuracy_of_kept": fit.accuracy_of_kept,
                **measure_thresholds(tuple(by_label[label] for label in target.labels), asked),
                "one_threshold": measure_thresholds((alone,) * len(target.labels), asked),
            }
        )
    return rows


def summarise_splits(target: Target, asked: float, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over the splits, and the standard deviation of the coverage."""
    gains = np.array([row["accuracy_of_kept"] - row["accuracy"] for row in rows])

    def means(of: list[dict[str, Any]], *keys: str) -> dict[str, Any]:
        return {
            **{key: float(np.mean([row[key] for row in of])) for key in keys},
            "coverage_of": {
                label: float(np.mean([row["coverage_of"][label] for row in of])) for label in target.labels
            },
        }

    found = means(
        rows, "coverage", "kept", "accuracy_of_kept", "accuracy", "fitted_kept", "fitted_accuracy_of_kept", "area"
    )
    return {
        "target": target.name,
        "asked": asked,
        "splits": len(rows),
        "groups": rows[0]["groups"],
        **found,
        "coverage_deviation": float(np.std([row["coverage"] for row in rows], ddof=1)),
        "off_points": 100 * (found["coverage"] - asked),
        "gain_points": 100 * float(gains.mean()),
        "least_gain_points": 100 * float(gains.min()),
        "one_threshold": means([row["one_threshold"] for row in rows], "coverage", "kept", "accuracy_of_kept"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=50)
    torch.set_num_threads(1)  # the figures do not depend on it; on a busy machine threads wait for each other
    splits, begin = parser.parse_args().splits, time.perf_counter()
    features, levels = read_features()
    print(f"features {features.shape} ({time.perf_counter() - begin:.0f} s)", flush=True)
    level, defective = TARGETS
    found: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for seed in range(splits):
        probabilities, calibration, test = probe_split(features, levels, seed)
        upper = probabilities[:, DEFECTIVE:].sum(axis=1)
        for target, scores, truth in (
            (level, probabilities, levels),
            (defective, np.stack([1 - upper, upper], axis=1), (levels >= DEFECTIVE).astype(np.int64)),
        ):
            for row in measure_split(scores, truth, calibration, test, target):
                found.setdefault((target.name, row["asked"]), []).append(row)
        print(f"split {seed} ({time.perf_counter() - begin:.0f} s)", flush=True)
    rows = [summarise_splits(target, asked, found[target.name, asked]) for target in TARGETS for asked in ASKED]
    result = {
        "dataset": "elpv-dataset",
        "protocol": f"half to train, {CALIBRATION} to calibrate, the rest to judge; stratified",
        "rows": rows,
        "seconds": round(time.perf_counter() - begin, 1),
        "machine": describe_machine(),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
