"""The inference run, as one flow of generators:

    source → decode → batch → encode → window → head → sink
    Inputs   DecodePool   encode_frames          predict  Ledger

Decoding runs in processes, the encoder in a thread, everything else in the caller's. Batches of frames are filled across
files, so inputs end in the order in which they happen to; the order within an input is that of time. Nothing that happens
to one file ends the run; an engine that fails, a full disk and Ctrl-C do, and leave a folder that ``resume`` continues.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidrisk import __version__
from vidrisk.cache import array_cache, key_of
from vidrisk.frames import Decoder, FrameChoice, decoder_versions
from vidrisk.infer.classifier import Classifier
from vidrisk.infer.decode import ReadAgain, ReadEnd
from vidrisk.infer.encode import Encoded, EncodedWindow, encode_frames
from vidrisk.infer.feature_cache import KeptFeatures
from vidrisk.infer.ledger import READ_STATES, Ledger, Row
from vidrisk.infer.parquet import write_parquet
from vidrisk.infer.pool import DecodePool
from vidrisk.infer.predictions import Prediction, prediction_from_probabilities
from vidrisk.infer.saved_features import SavedFeatures
from vidrisk.infer.segments import Hysteresis, write_segments
from vidrisk.infer.sources import Inputs
from vidrisk.infer.summary import Meter, Summary, summarize, write_summary
from vidrisk.infer.wire import ReadSettings
from vidrisk.runtimes.contract import Contract
from vidrisk.runtimes.errors import Interrupted, RuntimeFailure, SettingsError, SpecError, require
from vidrisk.runtimes.specs import TimeSpec

MAX_SLOTS = 64
TELL_EVERY_S = 1.0

_Answer = tuple[tuple[float | None, float | None], dict[str, npt.NDArray[np.float32]]]


def usable_cores() -> int:
    """Cores that this process may use: as many threads the engines take."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """One decode process per core, 8 at most."""
    return min(usable_cores(), 8)


@dataclass(frozen=True)
class InferSettings:
    """How to run.

    Attributes:
        window_s, stride_s: override the bundle's windows, in seconds; None keeps them.
        workers: decode processes.
        batch_frames: frames that the encoder sees at once.
        decoder: ``auto``, ``pyav`` or ``decord``.
        frames: ``all``, or ``keyframes`` to show at every moment the last keyframe before it.
        static_levels: frames whose luma nowhere differs by as much, of 255, from the last one encoded share its features;
            0 encodes every frame.
        file_timeout_s: a decoder that says nothing for so long is killed.
        max_memory_mb: what a decode process may allocate.
        resume: continue the run in the output folder.
        parquet: also write ``predictions.parquet``.
        save_features: also keep the features of every frame.
        feature_cache: keep features under the content of the file, the encoder and the specs, and use what is kept there.
        hysteresis: how windows are merged into segments.
    """

    window_s: float | None = None
    stride_s: float | None = None
    workers: int = field(default_factory=default_workers)
    batch_frames: int = 32
    decoder: Decoder = "auto"
    frames: FrameChoice = "all"
    static_levels: float = 0.0
    file_timeout_s: float = 60.0
    max_memory_mb: int = 2048
    resume: bool = False
    parquet: bool = False
    save_features: bool = False
    feature_cache: bool = False
    hysteresis: Hysteresis = field(default_factory=Hysteresis)

    def __post_init__(self) -> None:
        for name, least, most in (("workers", 1, 64), ("batch_frames", 1, 4096), ("static_levels", 0, 255),
                                  ("file_timeout_s", 0.1, 86_400), ("max_memory_mb", 64, 1_048_576)):
            if not least <= getattr(self, name) <= most:
                raise SettingsError(f"{name} is {getattr(self, name)}", allowed=f"{least} to {most}")

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

    def for_reading(self, classifier: Classifier) -> ReadSettings:
        """What the decode processes are told. A batch is being encoded while they fill their slots.

        Raises:
            SettingsError: as ``time_from_contract``.
        """
        contract = classifier.contract
        reading = ReadSettings(contract.pixel, self.time_from_contract(contract), self.decoder, self.frames, self.static_levels,
                               self.max_memory_mb, slots=min(self.batch_frames, MAX_SLOTS))
        if not self.feature_cache:
            return reading
        specs = replace(reading, max_memory_mb=0, slots=0).to_json()  # what does not shape a feature
        salt = key_of(classifier.encoder_identity, specs, __version__, *decoder_versions())
        return replace(reading, cache_salt=salt, features=classifier.width)


@dataclass(frozen=True)
class Pace:
    """Attributes:
    files_per_s, clips_per_s: of this run alone.
    decoded, batched: frames that a decode process has waiting, and that wait for their batch to be full.
    bottleneck: the stage that the others have waited for longest.
    """

    files_per_s: float
    clips_per_s: float
    decoded: int
    batched: int
    bottleneck: str


@dataclass(frozen=True)
class Progress:
    """How far a run is, counted over the whole output folder, and how fast it goes."""

    files: int
    files_total: int
    files_failed: int
    clips: int
    pace: Pace | None = None


def run_inference(classifier: Classifier, inputs: Inputs, out: str | os.PathLike[str],
                  settings: InferSettings | None = None,
                  on_progress: Callable[[Progress], None] | None = None) -> Summary:
    """Predict every input into ``out``: ``predictions.jsonl``, ``ledger.sqlite``, ``summary.json``, where there are windows
    ``segments.jsonl``, and what the settings ask for beside.

    Raises:
        SettingsError: ``out`` cannot be used, or the run in it was made otherwise.
        MissingExtra: decord or Parquet is asked for and not installed.
        RuntimeFailure: the engine failed, or decode processes cannot be started.
        Interrupted: Ctrl-C.
        VidriskError: the disk is full or cannot be written.
        In each case ``out`` holds everything that was finished, and ``resume`` continues.
    """
    settings = settings or InferSettings()
    for module, extra, is_wanted in (("decord", "decord", settings.decoder == "decord"), ("pyarrow", "parquet", settings.parquet)):
        if is_wanted:  # said now, and not after hours
            require(module, extra)
    out, meter = Path(out), Meter()
    read_settings = settings.for_reading(classifier)
    started_s = time.perf_counter()
    limits = {"timeout": settings.file_timeout_s, "too_large": settings.max_memory_mb}
    with Ledger(out, _identity(classifier, read_settings, settings), resume=settings.resume, limits=limits) as ledger:
        ledger.add(inputs.paths)
        progress = before = _progress_from_rows(ledger.rows())
        pending = (row for row in ledger.rows() if row.state == "pending")
        told_s = started_s

        def tell(*, after_s: float = 0.0) -> None:
            nonlocal told_s
            if on_progress and time.perf_counter() - told_s >= after_s:
                told_s = time.perf_counter()
                on_progress(replace(progress, pace=_pace(progress, before, told_s - started_s, meter)))

        try:
            with closing(predicted(classifier, pending, settings, meter, out, lambda: tell(after_s=TELL_EVERY_S))) as results:
                for row, predictions in results:
                    with meter.measure("write"):
                        ledger.finish(row, b"".join(p.to_json() for p in predictions))
                    progress = _advanced(progress, row)
                    tell()
            with meter.measure("write"):
                ledger.commit()
            if progress.files < progress.files_total:
                raise RuntimeFailure(f"{progress.files_total - progress.files} inputs were not read to their end",
                                     fix=f"the same command with --resume continues in {out}")
        except KeyboardInterrupt:
            raise Interrupted(f"stopped after {progress.files} of {progress.files_total} inputs",
                              fix=f"the same command with --resume continues in {out}") from None
        if read_settings.time and read_settings.time.window_s:
            write_segments(out, settings.hysteresis)
        if settings.parquet:
            write_parquet(out)
        summary = summarize(
            classifier, ledger, other_files=inputs.other_files, meter=meter, wall_s=time.perf_counter() - started_s,
            files=progress.files - before.files, clips=progress.clips - before.clips,
            time_spec=read_settings.time, settings=asdict(settings) | {"threads": classifier.threads or usable_cores()})
    write_summary(summary, out)
    return summary


def predicted(classifier: Classifier, rows: Iterable[Row], settings: InferSettings, meter: Meter,
              out: Path | None = None,
              on_batch: Callable[[], None] = lambda: None) -> Generator[tuple[Row, Iterator[Prediction]], None, None]:
    """The flow from source to head: each input with its predictions when it ends. Close it to stop the decoders.

    Args:
        out: where features are saved, if they are to be.
        on_batch: called now and then, because the next input may be hours long.
    """
    reading = settings.for_reading(classifier)
    saved = SavedFeatures(out) if out and settings.save_features else None
    kept = KeptFeatures(array_cache()) if settings.feature_cache else None
    with DecodePool(reading, meter, workers=settings.workers, file_timeout_s=settings.file_timeout_s) as pool, \
            closing(saved) if saved else nullcontext():
        encoded = encode_frames(pool.read(rows), classifier, settings.batch_frames, meter, [s for s in (saved, kept) if s])
        yield from predict(encoded, classifier, meter, on_batch)


def predict(batches: Iterable[list[Encoded]], classifier: Classifier, meter: Meter,
            on_batch: Callable[[], None] = lambda: None) -> Iterator[tuple[Row, Iterator[Prediction]]]:
    """Run the head on the windows of each batch; yield each input with its predictions when it ends."""
    contract = classifier.contract
    threshold = classifier.threshold(contract.targets[0].name)
    answers: defaultdict[int, list[_Answer]] = defaultdict(list)
    for batch in batches:
        windows = [item for item in batch if isinstance(item, EncodedWindow)]
        if windows:
            with meter.measure("head"):
                probabilities = classifier.probabilities(np.stack([window.features for window in windows]))
            meter.windows += len(windows)
            on_batch()
            for position, window in enumerate(windows):
                scores = {name: of_target[position] for name, of_target in probabilities.items()}
                answers[window.row_id].append((window.interval_s, scores))
        for item in batch:
            if isinstance(item, ReadAgain):
                answers.pop(item.row_id, None)
            elif isinstance(item, ReadEnd):
                of_input = answers.pop(item.row.id, [])
                row = replace(item.row, predictions=len(of_input))
                yield row, (prediction_from_probabilities(contract, row.path, interval_s, scores, threshold, row.state)
                            for interval_s, scores in of_input)


def _identity(classifier: Classifier, reading: ReadSettings, settings: InferSettings) -> dict[str, str]:
    """What must be equal for two runs to write into one folder."""
    return {"bundle": classifier.provenance["digest"], "contract": classifier.contract.digest,
            "runtime": classifier.runtime, "variant": classifier.variant, "decoder": reading.decoder,
            "window_s": str(reading.time and reading.time.window_s), "stride_s": str(reading.time and reading.time.stride_s),
            "frames": reading.choice, "static_levels": str(float(reading.static_levels)),
            "save_features": str(settings.save_features)}


def _pace(progress: Progress, before: Progress, elapsed_s: float, meter: Meter) -> Pace:
    waited = {"decode": meter.seconds["waiting for decode"], "encode": meter.seconds["waiting for encode"],
              "head": meter.seconds["head"], "write": meter.seconds["write"]}
    return Pace((progress.files - before.files) / elapsed_s, meter.windows / elapsed_s, meter.decoded, meter.batched,
                max(waited, key=waited.__getitem__))


def _progress_from_rows(rows: Iterable[Row]) -> Progress:
    progress = Progress(0, 0, 0, 0)
    for row in rows:
        progress = replace(progress, files_total=progress.files_total + 1)
        progress = progress if row.state == "pending" else _advanced(progress, row)
    return progress


def _advanced(progress: Progress, row: Row) -> Progress:
    return replace(progress, files=progress.files + 1, clips=progress.clips + row.predictions,
                   files_failed=progress.files_failed + (row.state not in READ_STATES))
