"""A run over an output folder: every input is predicted once and recorded in the ledger, whatever happens to it.

No problem with a single file ends the run; an engine failure, a full disk and Ctrl-C do, and leave a folder that
``resume`` continues.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path

from vidrisk.decode.messages import Input, ReadSettings
from vidrisk.decode.pool import DecodePool, usable_cores
from vidrisk.decode.session import Limits
from vidrisk.frames.media import kind_from_suffix, name_of
from vidrisk.inference.head import Answer
from vidrisk.inference.meter import Meter
from vidrisk.inference.model import Classifier
from vidrisk.inference.predictions import Prediction
from vidrisk.inference.stream import stream_answers
from vidrisk.jobs.folder import explain_write_errors
from vidrisk.jobs.kept_thumbnails import KeptThumbnails
from vidrisk.jobs.ledger import Ledger, Row
from vidrisk.jobs.parquet import write_parquet
from vidrisk.jobs.progress import Progress, count_row, pace_from_meter, progress_from_rows
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.saved_features import SavedFeatures
from vidrisk.jobs.segments import write_segments
from vidrisk.jobs.sources import Inputs
from vidrisk.jobs.summary import SUMMARY, Summary, summarize, write_summary
from vidrisk.runtimes.contract.errors import Interrupted, RuntimeFailure, require

_log = logging.getLogger(__name__)

TELL_EVERY_S = 1.0


def run_folder(
    classifier: Classifier,
    inputs: Inputs,
    out: str | os.PathLike[str],
    settings: InferSettings | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    *,
    pool: DecodePool | None = None,
    cards: int = 0,
    is_batch: bool = False,
) -> Summary:
    """Predict every input into ``out``.

    Writes ``predictions.jsonl``, ``ledger.sqlite``, ``summary.json``, if there are windows ``segments.jsonl``, and
    whatever else the settings request.

    Args:
        classifier: the model.
        inputs: files to predict.
        out: the output folder.
        settings: of the run.
        on_progress: reports the progress.
        pool: that decodes; None makes one for this run with ``settings.workers``.
        cards: number of cards in a later report of the folder: thumbnails for as many are kept while the files are
            decoded. 0 keeps none.
        is_batch: the inputs are a batch of a folder that keeps growing. Earlier inputs of the folder stay unchanged:
            none of them is done again, those without a result are removed, and ``summary.json`` describes the earlier
            batches until this one has ended.

    Raises:
        SettingsError: ``out`` cannot be used, or its run was made with other settings.
        MissingExtra: decord or Parquet is requested and not installed.
        RuntimeFailure: the engine failed, or decode processes cannot be started.
        Interrupted: Ctrl-C.
        VidriskError: the disk is full or cannot be written.
        In each case ``out`` holds everything that was finished, and ``resume`` continues.
    """
    settings = settings or InferSettings()
    for module, extra, is_wanted in (
        ("decord", "decord", settings.decoder == "decord"),
        ("pyarrow", "parquet", settings.parquet),
    ):
        if is_wanted:  # fail now, and not after hours
            require(module, extra)
    out, meter = Path(out), Meter()
    read_settings = settings.for_reading(classifier)
    started_s = time.perf_counter()
    limits = {"timeout": settings.file_timeout_s, "too_large": settings.max_memory_mb}
    with Ledger(
        out,
        _identity(classifier, read_settings, settings),
        resume=settings.resume,
        limits=limits,
        older={"contract": classifier.contract.digest_of_schema_1},
        only=set(inputs.paths) if is_batch else None,
    ) as ledger:
        ledger.add(inputs.paths)
        rows = ledger.rows()
        progress = before = progress_from_rows(rows)
        pending = {row.id: row for row in rows if row.state == "pending"}
        told_s = started_s
        if pending and not is_batch:  # otherwise an interrupted run would look like a finished one
            with explain_write_errors(out):
                (out / SUMMARY).unlink(missing_ok=True)

        def tell(*, after_s: float = 0.0) -> None:
            nonlocal told_s
            if on_progress and time.perf_counter() - told_s >= after_s:
                told_s = time.perf_counter()
                on_progress(replace(progress, pace=pace_from_meter(progress, before, told_s - started_s, meter)))

        try:
            with ExitStack() as stack:
                kept = stack.enter_context(KeptThumbnails(out, cards)) if cards else None
                saved = stack.enter_context(closing(SavedFeatures(out))) if settings.save_features else None
                answers = stream_answers(
                    [Input(row.id, row.path) for row in pending.values()],
                    classifier,
                    pool or stack.enter_context(DecodePool(settings.workers)),
                    kept.ask_thumbnails(read_settings) if kept else read_settings,
                    batch_frames=settings.batch_frames,
                    limits=Limits(settings.file_timeout_s),
                    meter=meter,
                    sinks=[saved] if saved else [],
                    on_batch=lambda: tell(after_s=TELL_EVERY_S),
                    tap=kept.collect if kept else iter,
                    expected_frames=0 if read_settings.cache_salt else _estimate_frames(pending.values(), classifier),
                )
                said: set[str] = set()
                for answer in stack.enter_context(closing(answers)):
                    row = _final_row(pending[answer.input.id], answer)
                    say_remedy(row, said)
                    with meter.measure("write"):
                        ledger.finish(row, b"".join(p.to_json() for p in _count_uncertain(answer.predictions, meter)))
                    progress = replace(count_row(progress, row), uncertain=meter.uncertain)
                    tell()
            with meter.measure("write"):
                ledger.commit()
            if progress.files < progress.files_total:
                raise RuntimeFailure(
                    f"{progress.files_total - progress.files} inputs were not read completely",
                    fix=f"run it again with resume, which continues in {out}",
                )
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped after {progress.files} of {progress.files_total} inputs",
                fix=f"run it again with resume, which continues in {out}",
            ) from None
        if read_settings.time and read_settings.time.window_s:
            write_segments(out, settings.hysteresis)
        if settings.parquet:
            write_parquet(out)
        summary = summarize(
            classifier,
            ledger,
            other_files=inputs.other_files,
            meter=meter,
            wall_s=time.perf_counter() - started_s,
            files=progress.files - before.files,
            clips=progress.clips - before.clips,
            time_spec=read_settings.time,
            settings=asdict(settings) | {"threads": classifier.threads or usable_cores()},
        )
    write_summary(summary, out)
    return summary


def _estimate_frames(rows: Iterable[Row], classifier: Classifier) -> int:
    """Return the number of frames of the inputs if a video is as long as one window."""
    frames = classifier.contract.frames
    return sum(1 if kind_from_suffix(row.path) == "image" else frames for row in rows)


def _final_row(row: Row, answer: Answer) -> Row:
    end = answer.end
    return replace(
        row, state=end.state, reason=end.reason, bytes=end.bytes, mtime_ns=end.mtime_ns, predictions=answer.count
    )


def _count_uncertain(predictions: Iterator[Prediction], meter: Meter) -> Iterator[Prediction]:
    for prediction in predictions:
        meter.uncertain += bool(prediction.uncertain)
        yield prediction


def say_remedy(row: Row, said: set[str]) -> None:
    """Log once what the installation lacks.

    It affects all files of a kind, and would otherwise appear only in the ledger.
    """
    remedy = row.reason.partition("fix: ")[2]
    if row.state == "skipped" and "pip install" in remedy and remedy not in said:
        said.add(remedy)
        _log.warning("%s %s", name_of(row.path), row.reason)


def _identity(classifier: Classifier, reading: ReadSettings, settings: InferSettings) -> dict[str, str]:
    """Return what must be equal for two runs to write to one folder."""
    return {
        "bundle": classifier.provenance["digest"],
        "contract": classifier.contract.digest,
        "runtime": classifier.runtime,
        "variant": classifier.variant,
        "decoder": reading.decoder,
        "window_s": str(reading.time and reading.time.window_s),
        "stride_s": str(reading.time and reading.time.stride_s),
        "frames": reading.choice,
        "static_levels": str(float(reading.static_levels)),
        "save_features": str(settings.save_features),
    }
