"""Benchmark on real files: the whole way from file to prediction, the limit of decoding, and accuracy."""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidrisk.bench.alone import Candidate
from vidrisk.data import Table, load_table
from vidrisk.data.formats import format_of
from vidrisk.data.io import SUFFIXES
from vidrisk.data.targets import truth_from_table
from vidrisk.decode.messages import Again, Input, ReadSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.files.walk import list_folder
from vidrisk.frames import Frame, FrameWindow
from vidrisk.inference.head import NO_ANSWER
from vidrisk.inference.model import Classifier
from vidrisk.jobs.evaluate import evaluate
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.sources import Inputs, find_inputs
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import DataError, Interrupted
from vidrisk.runtimes.contract.progress import OnProgress

log = logging.getLogger(__name__)

SCORES = ("n", "top1", "mean_average_precision", "macro_f1", "ece")

MOST_ROUNDS, BUDGET_S = 5, 12.0


@dataclass(frozen=True)
class Held:
    """Result of one pass over the files.

    Attributes:
        clips: number of clips.
        frames: number of frames, each counted once however many clips contain it.
        unreadable: files without any clip.
    """

    clips: int
    frames: int
    unreadable: int


@dataclass(frozen=True)
class BenchData:
    """The files that candidates are run on.

    Attributes:
        inputs: the files, at most as many as requested, evenly spread over the ``found`` ones.
        table: the same files with labels, or None if ``unlabelled`` says why.
        held: what they contain.
    """

    inputs: Inputs
    found: int
    table: Table | None
    unlabelled: str
    held: Held


@dataclass(frozen=True)
class DecodeLimit:
    """Speed of only reading the files, with the pipeline's own workers.

    Attributes:
        clips_per_s: median over ``rounds`` passes.
    """

    held: Held
    clips_per_s: float
    workers: int
    rounds: int


@dataclass(frozen=True)
class EndToEnd:
    """Speed from files to predictions.

    Attributes:
        clips_per_s: median over the rounds.
        encode_clips_per_s: speed of the encoder alone at its best batch.
        of_slower_stage: speed relative to the slower of encoder and decode limit: 1 if the slower stage hides the
            other.
        of_both_stages: speed relative to both stages one after the other, each with all cores. If decoding and encoding
            share the cores, this is the one that can reach 1.
    """

    clips_per_s: float
    encode_clips_per_s: float
    of_slower_stage: float
    of_both_stages: float


def data_from_path(
    path: Path, contract: Contract, limit: int, *, encoding: str | None = None, sheet: str | None = None
) -> BenchData:
    """Find the files and, if there are any, the labels for the model.

    Raises:
        DataError: nothing was found, or nothing can be read.
    """
    table, unlabelled = None, ""
    try:
        if path.is_dir() and not format_of(path) and not list_folder(path).folders:
            raise DataError(f"{path.name} has no sub-folder per class")
        table = load_table(
            path, contract.task, min_labels=1, multi_label=contract.multi_targets, encoding=encoding, sheet=sheet
        )
    except DataError as error:
        if format_of(path) or (path.is_file() and path.suffix.lower() in SUFFIXES):  # an invalid data set or manifest
            raise
        unlabelled = error.what
    if table and len(test := table.of_split("test")):  # the model may have been trained on the others
        log.info("%s has splits: the %d samples of the test split are used", path.name, len(test))
        table = test
    paths = [os.fspath(sample.path) for sample in table.samples] if table else list(find_inputs([path]).paths)
    chosen = evenly_spread(len(paths), limit)
    if table:
        table = table.with_samples(table.samples[index] for index in chosen)
        try:
            truth_from_table(table, contract.targets)
        except DataError as error:
            table, unlabelled = None, error.what
    # Each file once, however many of its parts have labels.
    inputs = find_inputs(list(dict.fromkeys(paths[index] for index in chosen)))
    held = _read(inputs, contract)  # also fills the system's cache, so that later passes are comparable
    if not held.clips:
        raise DataError(f"none of {len(inputs.paths)} inputs can be read")
    return BenchData(inputs, len(paths), table, unlabelled, held)


def evenly_spread(count: int, limit: int) -> list[int]:
    """Return ascending indices below ``count``, at most ``limit`` of them.

    Of files in order, every class and camera gets its share.
    """
    return sorted(set(np.linspace(0, count - 1, min(limit, count)).round().astype(int).tolist()))


def end_to_end(
    classifiers: Mapping[Candidate, Classifier],
    data: BenchData,
    frames_per_s: Mapping[Candidate, float],
    on_progress: OnProgress,
) -> tuple[DecodeLimit, dict[Candidate, EndToEnd]]:
    """Run every candidate over the files, alternating with only reading them.

    Args:
        classifiers: the candidates, opened.
        data: the files.
        frames_per_s: of each encoder at its best batch.
        on_progress: reports the round.

    Raises:
        RuntimeFailure: an engine failed.
    """
    contract = next(iter(classifiers.values())).contract
    held = data.held
    reading_s: list[float] = []
    running_s: dict[Candidate, list[float]] = {candidate: [] for candidate in classifiers}
    started_s = time.perf_counter()
    for rounds in range(1, MOST_ROUNDS + 1):
        begin_s = time.perf_counter()
        _read(data.inputs, contract)
        reading_s.append(time.perf_counter() - begin_s)
        for done, (candidate, classifier) in enumerate(classifiers.items()):
            on_progress(f"end to end, round {rounds}", done, len(classifiers))
            running_s[candidate].append(_run_seconds(classifier, data.inputs))
        if (time.perf_counter() - started_s) * (rounds + 1) / rounds > BUDGET_S:  # estimated time with one more round
            break
    decode = held.clips / statistics.median(reading_s)
    results = {}
    for candidate, times_s in running_s.items():
        rate, encode = held.clips / statistics.median(times_s), frames_per_s[candidate] * held.clips / held.frames
        results[candidate] = EndToEnd(
            round(rate, 2),
            round(encode, 2),
            round(rate / min(decode, encode), 4),
            round(rate * (1 / decode + 1 / encode), 4),
        )
    return DecodeLimit(held, round(decode, 2), InferSettings().workers, len(reading_s)), results


def accuracies(
    classifiers: Mapping[Candidate, Classifier], table: Table, on_progress: OnProgress
) -> dict[Candidate, dict[str, dict[str, Any]]]:
    """Return number of samples, top-1 (mAP for multi-label targets), macro-F1 and ECE per target.

    Candidates without an answer are left out.
    """
    found = {}
    for done, (candidate, classifier) in enumerate(classifiers.items()):
        on_progress("accuracy", done, len(classifiers))
        try:
            result = evaluate(classifier, table)
        except DataError as error:
            log.warning("%s: %s", candidate, error)
            continue
        left_out = sum(NO_ANSWER in sample["reason"] for sample in result.unreadable)
        if left_out:
            log.warning("%s: %s for %d of %d samples, which are left out", candidate, NO_ANSWER, left_out, len(table))
        found[candidate] = {
            target: {
                name: round(value, 6) for name, value in vars(report).items() if name in SCORES and value is not None
            }
            for target, report in result.metrics.items()
        }
    return found


def _read(inputs: Inputs, contract: Contract) -> Held:
    """Read every file once with the pipeline's worker processes, and drop the frames."""
    settings = InferSettings()
    clips, frames = Counter[int](), Counter[int]()
    reading = ReadSettings(contract.pixel, contract.time, slots=settings.batch_frames)
    with DecodePool(settings.workers) as pool:
        for read in pool.read((Input(index, path) for index, path in enumerate(inputs.paths)), reading):
            if isinstance(read.item, Frame):
                frames[read.id] += 1
            elif isinstance(read.item, FrameWindow):
                clips[read.id] += 1
            elif isinstance(read.item, Again):
                del clips[read.id], frames[read.id]
    return Held(clips.total(), frames.total(), len(inputs.paths) - len(clips))


def _run_seconds(classifier: Classifier, inputs: Inputs) -> float:
    with tempfile.TemporaryDirectory(prefix="vidrisk-bench-") as folder:
        begin_s = time.perf_counter()
        try:
            run_folder(classifier, inputs, Path(folder) / "out")
        except Interrupted:  # its message explains how to resume in a folder that is deleted here
            raise KeyboardInterrupt from None
        return time.perf_counter() - begin_s
