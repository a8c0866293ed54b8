"""The inference run, as one flow of generators:

    source → decode → batch → encode → window → head → sink
    Inputs   read_in_order     encode_clips   predict   Ledger

Decoding runs in threads; everything else, the engine and the ledger included, in the caller's. Batches of frames are
filled across files. Nothing that happens to one file ends the run; an engine that fails, a full disk and Ctrl-C do, and
leave a folder that ``resume`` continues.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidrisk.frames import Decoder
from vidrisk.infer.classifier import Classifier
from vidrisk.infer.decode import Read, ReadClip, ReadEnd, read_in_order, read_input
from vidrisk.infer.ledger import READ_STATES, Ledger, Row
from vidrisk.infer.predictions import Prediction, prediction_from_probabilities
from vidrisk.infer.sources import Inputs
from vidrisk.infer.summary import StageTimes, Summary, summarize, write_summary
from vidrisk.runtimes.contract import Contract
from vidrisk.runtimes.errors import Interrupted, SettingsError, SpecError, require
from vidrisk.runtimes.specs import TimeSpec

MAX_WORKERS = 64
MAX_BATCH_FRAMES = 4096


def default_workers() -> int:
    """One decode thread per core that this process may use, 8 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8)


@dataclass(frozen=True)
class InferSettings:
    """How to run.

    Attributes:
        window_s, stride_s: override the bundle's windows, in seconds; None keeps them.
        workers: decode threads.
        batch_frames: frames that the encoder sees at once.
        decoder: ``auto``, ``pyav`` or ``decord``.
        resume: continue the run in the output folder.
    """

    window_s: float | None = None
    stride_s: float | None = None
    workers: int = field(default_factory=default_workers)
    batch_frames: int = 32
    decoder: Decoder = "auto"
    resume: bool = False

    def __post_init__(self) -> None:
        for name, value, most in (("workers", self.workers, MAX_WORKERS),
                                  ("batch_frames", self.batch_frames, MAX_BATCH_FRAMES)):
            if not 1 <= value <= most:
                raise SettingsError(f"{name} is {value}", allowed=f"1 to {most}")

    def time_from_contract(self, contract: Contract) -> TimeSpec | None:
        """The contract's moments, in the windows that are asked for.

        Raises:
            SettingsError: a stride without a window, or longer than it; a length that is no positive number.
        """
        if self.window_s is None and self.stride_s is None:
            return contract.time
        trained_s = contract.time.window_s if contract.time else None
        window_s = trained_s if self.window_s is None else self.window_s
        try:
            return TimeSpec(contract.frames, window_s, self.stride_s)
        except SpecError as error:
            raise SettingsError(error.what, allowed=error.allowed, fix="change --window or --stride") from error


@dataclass(frozen=True)
class Progress:
    """How far a run is, counted over the whole output folder."""

    files: int
    files_total: int
    files_failed: int
    clips: int


@dataclass(frozen=True)
class EncodedClip:
    """A clip whose frames have become ``features``, float32 ``(T, D)``."""

    interval_s: tuple[float | None, float | None]
    features: npt.NDArray[np.float32]


def run_inference(classifier: Classifier, inputs: Inputs, out: str | os.PathLike[str],
                  settings: InferSettings | None = None,
                  on_progress: Callable[[Progress], None] | None = None) -> Summary:
    """Predict every input into ``out``: ``predictions.jsonl``, ``ledger.sqlite`` and ``summary.json``.

    Raises:
        SettingsError: ``out`` cannot be used, or the run in it was made otherwise.
        MissingExtra: decord is asked for and not installed.
        RuntimeFailure: the engine failed.
        Interrupted: Ctrl-C.
        VidriskError: the disk is full or cannot be written.
        In each case ``out`` holds everything that was finished, and ``resume`` continues.
    """
    settings = settings or InferSettings()
    if settings.decoder == "decord":
        require("decord", "decord")
    out, contract, stages = Path(out), classifier.contract, StageTimes()
    time_spec = settings.time_from_contract(contract)
    started_s = time.perf_counter()
    with Ledger(out, _identity(classifier, time_spec, settings), resume=settings.resume) as ledger:
        ledger.add(inputs.paths)
        progress = before = _progress_from_rows(ledger.rows())
        read = partial(read_input, pixel=contract.pixel, time_spec=time_spec, decoder=settings.decoder)
        pending = (row for row in ledger.rows() if row.state == "pending")
        try:
            with closing(read_in_order(pending, read, workers=settings.workers)) as decoded:
                encoded = encode_clips(decoded, classifier, settings.batch_frames, stages)
                for row, predictions in predict(encoded, classifier, stages):
                    with stages.measure("write"):
                        ledger.finish(row, b"".join(p.to_json() for p in predictions))
                    progress = _advanced(progress, row)
                    if on_progress:
                        on_progress(progress)
            with stages.measure("write"):
                ledger.commit()
        except KeyboardInterrupt:
            raise Interrupted(f"stopped after {progress.files} of {progress.files_total} inputs",
                              fix=f"the same command with --resume continues in {out}") from None
        summary = summarize(
            classifier, ledger, other_files=inputs.other_files, stages=stages, wall_s=time.perf_counter() - started_s,
            files=progress.files - before.files, clips=progress.clips - before.clips,
            time_spec=time_spec, settings=asdict(settings))
    write_summary(summary, out)
    return summary


def encode_clips(reads: Iterable[Read], classifier: Classifier, batch_frames: int,
                 stages: StageTimes) -> Iterator[list[EncodedClip | ReadEnd]]:
    """Run the encoder on full batches of frames, whichever clips and files these come from.

    Yields what each batch completed, in the order of ``reads``: a clip once all its frames are encoded, the end of a
    file after its last clip.
    """
    waiting: deque[Read] = deque()
    frames: deque[npt.NDArray[np.uint8]] = deque()
    features: list[npt.NDArray[np.float32]] = []
    queued = 0

    def encode(count: int) -> list[EncodedClip | ReadEnd]:
        nonlocal queued
        with stages.measure("encode"):
            features.append(classifier.features(_take(frames, count)))
        queued -= count
        return _completed(waiting, features)

    for read in reads:
        waiting.append(read)
        if isinstance(read, ReadClip):
            frames.append(read.clip.frames)
            queued += len(read.clip.frames)
        else:
            stages.add("decode", read.decode_s)
            if not queued:
                yield _completed(waiting, features)
        while queued >= batch_frames:
            yield encode(batch_frames)
    if queued:
        yield encode(queued)


def _take(frames: deque[npt.NDArray[np.uint8]], count: int) -> npt.NDArray[np.uint8]:
    """Take ``count`` frames off the front; of an array that is longer, the rest stays."""
    batch: list[npt.NDArray[np.uint8]] = []
    while count:
        first = frames.popleft()
        if len(first) > count:
            frames.appendleft(first[count:])
        batch.append(first[:count])
        count -= len(batch[-1])
    return np.concatenate(batch)


def _completed(waiting: deque[Read], features: list[npt.NDArray[np.float32]]) -> list[EncodedClip | ReadEnd]:
    """Take off the front of ``waiting`` what ``features`` (and nothing more) completes."""
    done: list[EncodedClip | ReadEnd] = []
    ready = np.concatenate(features) if features else np.empty((0, 0), np.float32)
    while waiting:
        first = waiting[0]
        if isinstance(first, ReadClip):
            length = len(first.clip.frames)
            if length > len(ready):
                break
            done.append(EncodedClip((first.clip.start_s, first.clip.end_s), ready[:length]))
            ready = ready[length:]
        else:
            done.append(first)
        waiting.popleft()
    features[:] = [ready] if len(ready) else []
    return done


def predict(batches: Iterable[list[EncodedClip | ReadEnd]], classifier: Classifier,
            stages: StageTimes) -> Iterator[tuple[Row, list[Prediction]]]:
    """Run the head on the clips of each batch; yield each file with its predictions when it ends."""
    contract = classifier.contract
    threshold = classifier.threshold(contract.targets[0].name)
    of_file: list[tuple[tuple[float | None, float | None], dict[str, npt.NDArray[np.float32]]]] = []
    for batch in batches:
        clips = [item for item in batch if isinstance(item, EncodedClip)]
        probabilities: dict[str, npt.NDArray[np.float32]] = {}
        if clips:
            with stages.measure("head"):
                probabilities = classifier.probabilities(np.stack([clip.features for clip in clips]))
        position = 0
        for item in batch:
            if isinstance(item, EncodedClip):
                of_file.append((item.interval_s, {name: rows[position] for name, rows in probabilities.items()}))
                position += 1
                continue
            row = replace(item.row, predictions=len(of_file))
            yield row, [prediction_from_probabilities(contract, row.path, interval_s, scores, threshold, row.state)
                        for interval_s, scores in of_file]
            of_file = []


def _identity(classifier: Classifier, time_spec: TimeSpec | None, settings: InferSettings) -> dict[str, str]:
    """What must be equal for two runs to write into one folder."""
    return {"bundle": classifier.provenance["digest"], "contract": classifier.contract.digest,
            "runtime": classifier.runtime, "variant": classifier.variant, "decoder": settings.decoder,
            "window_s": str(time_spec and time_spec.window_s), "stride_s": str(time_spec and time_spec.stride_s)}


def _progress_from_rows(rows: Iterable[Row]) -> Progress:
    progress = Progress(0, 0, 0, 0)
    for row in rows:
        progress = replace(progress, files_total=progress.files_total + 1)
        progress = progress if row.state == "pending" else _advanced(progress, row)
    return progress


def _advanced(progress: Progress, row: Row) -> Progress:
    return replace(progress, files=progress.files + 1, clips=progress.clips + row.predictions,
                   files_failed=progress.files_failed + (row.state not in READ_STATES))
