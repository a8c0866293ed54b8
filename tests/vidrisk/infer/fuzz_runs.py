"""Damaged media through a whole run: every file must end in the ledger, and the run must outlive them all."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from pathlib import Path

from colour import ACTION, colour_classifier
from mutants import mutants
from tiny_media import tiny_media

from vidrisk.infer.ledger import read_ledger
from vidrisk.infer.pipeline import InferSettings, run_inference
from vidrisk.infer.predictions import read_predictions
from vidrisk.infer.sources import find_inputs

FILE_TIMEOUT_S = 5.0
MAX_MEMORY_MB = 512


def write_mutants(folder: Path, count: int, seed: int) -> None:
    """``count`` damaged copies of one tiny file of every kind, under the suffix of the original."""
    (folder / "good").mkdir(parents=True)
    (folder / "bad").mkdir()
    originals = tiny_media(folder / "good")
    suffixes = [path.suffix for path in originals.values()]
    contents = [path.read_bytes() for path in originals.values()]
    for number, (name, content) in enumerate(mutants(contents, count, seed)):
        (folder / "bad" / f"{name}{suffixes[number % len(suffixes)]}").write_bytes(content)


def run_over(folder: Path, out: Path) -> tuple[Counter[str], float]:
    """Ledger states, and the longest time in seconds between two inputs that ended.

    Raises:
        AssertionError: an input without a row, or a row without its predictions.
    """
    ended_s = [time.monotonic()]
    settings = InferSettings(window_s=1.0, stride_s=0.5, workers=2, file_timeout_s=FILE_TIMEOUT_S, max_memory_mb=MAX_MEMORY_MB)
    with colour_classifier(ACTION) as classifier:
        run_inference(classifier, find_inputs([folder / "bad"]), out, settings, lambda _: ended_s.append(time.monotonic()))
    rows = read_ledger(out)
    assert {row.path for row in rows} == {str(path) for path in (folder / "bad").iterdir()}
    assert all(row.state == "ok" or row.reason for row in rows)
    assert Counter(p.path for p in read_predictions(out)) == {row.path: row.predictions for row in rows if row.predictions}
    return Counter(row.state for row in rows), max(later - earlier for earlier, later in itertools.pairwise(ended_s))
