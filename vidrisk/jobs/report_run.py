"""A run of reports or answers over an output folder: every case is answered once and recorded in the ledger.

The ledger, ``predictions.jsonl`` and ``summary.json`` are those of ``run_folder``; the same events end a run, and it is
resumed in the same way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path

from vidrisk.data.cases import Case
from vidrisk.decode.pool import DecodePool, usable_cores
from vidrisk.decode.session import Limits
from vidrisk.files.stamps import stamp_of_file
from vidrisk.inference.meter import Meter
from vidrisk.inference.prompt_builders import Pictured
from vidrisk.inference.queries import Query
from vidrisk.inference.reporter import Reporter
from vidrisk.inference.reports import Report, make_failed_report
from vidrisk.inference.scheme_query import no_level
from vidrisk.jobs.case_inputs import CaseInputs, case_of_photo
from vidrisk.jobs.folder import explain_write_errors
from vidrisk.jobs.join_reports import Leads
from vidrisk.jobs.ledger import Ledger, Row
from vidrisk.jobs.parquet import write_parquet
from vidrisk.jobs.progress import Progress, count_row, pace_from_meter, progress_from_rows
from vidrisk.jobs.report_settings import ReportSettings
from vidrisk.jobs.report_summary import summarize_reports
from vidrisk.jobs.run_folder import say_remedy
from vidrisk.jobs.summary import SUMMARY, Summary, write_summary
from vidrisk.runtimes.contract.errors import Interrupted, RuntimeFailure, SettingsError, require

GONE = "the inputs no longer contain this case"


def run_reports(
    reporter: Reporter,
    inputs: CaseInputs,
    out: str | os.PathLike[str],
    settings: ReportSettings | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    *,
    pool: DecodePool | None = None,
    leads: Leads | None = None,
) -> Summary:
    """Write a report of every case to ``out``: ``predictions.jsonl``, ``ledger.sqlite``, ``summary.json``.

    Args:
        reporter: the model.
        inputs: found with the scheme of the query (``Reporter.query``).
        out: the output folder.
        settings: of the run.
        on_progress: reports the progress after each case.
        pool: that decodes; None makes one for this run with ``settings.workers``.
        leads: a classifier's answers for the same photos: texts are written under its levels.

    Raises:
        SettingsError: neither scheme nor question, a question that is too long or combined with ``leads``, ``out``
            cannot be used, or its run was made with other settings.
        MissingExtra: Parquet is requested and pyarrow is not installed.
        RuntimeFailure: the engine failed, or decode processes cannot be started.
        DataError: a Parquet file that can no longer be opened.
        Interrupted: Ctrl-C.
        VidriskError: the disk is full or cannot be written.
        In each case ``out`` holds everything that was finished, and ``resume`` continues.
    """
    settings, out, meter = settings or ReportSettings(), Path(out), Meter()
    if settings.parquet:  # fail now, and not after hours
        require("pyarrow", "parquet")
    if leads is not None and settings.question is not None:
        raise SettingsError(
            "a question beside a classifier's levels", allowed="one of the two: a free-form answer has no level"
        )
    query = reporter.query(settings.question, leads.level_of if leads else no_level)
    started_s = time.perf_counter()
    limits = {"timeout": settings.file_timeout_s, "too_large": settings.max_memory_mb}
    identity = {**_identity(reporter), **query.identity, "leads": leads.digest if leads else ""}
    with Ledger(out, identity, resume=settings.resume, limits=limits, stamps=inputs.stamps) as ledger:
        ledger.add(inputs.cases)
        rows = ledger.rows()
        progress = before = progress_from_rows(rows)
        pending = [row for row in rows if row.state == "pending"]
        if pending:  # otherwise an interrupted run would look like a finished one
            with explain_write_errors(out):
                (out / SUMMARY).unlink(missing_ok=True)
        try:
            with ExitStack() as stack:
                opened = pool or stack.enter_context(DecodePool(settings.workers))
                said: set[str] = set()
                written = _reports(reporter, query, inputs, pending, opened, settings, meter)
                for row, report in stack.enter_context(closing(written)):
                    say_remedy(row, said)
                    with meter.measure("write"):
                        ledger.finish(row, _line(row, report, query, meter))
                    progress = replace(count_row(progress, row), uncertain=meter.uncertain)
                    if on_progress:
                        pace = pace_from_meter(progress, before, time.perf_counter() - started_s, meter)
                        on_progress(replace(progress, pace=pace))
            with meter.measure("write"):
                ledger.commit()
            if progress.files < progress.files_total:
                raise RuntimeFailure(
                    f"{progress.files_total - progress.files} inputs have no report",
                    fix=f"run it again with resume, which continues in {out}",
                )
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped after {progress.files} of {progress.files_total} inputs",
                fix=f"run it again with resume, which continues in {out}",
            ) from None
        if settings.parquet:
            write_parquet(out)
        summary = summarize_reports(
            reporter,
            query,
            ledger,
            other_files=len(inputs.left_out.files),
            meter=meter,
            wall_s=time.perf_counter() - started_s,
            files=progress.files - before.files,
            clips=progress.clips - before.clips,
            settings=asdict(settings)
            | {"threads": reporter.threads or usable_cores(), "answer_tokens": reporter.answer_tokens},
        )
    write_summary(summary, out)
    return summary


def _reports(
    reporter: Reporter,
    query: Query,
    inputs: CaseInputs,
    pending: Sequence[Row],
    pool: DecodePool,
    settings: ReportSettings,
    meter: Meter,
) -> Generator[tuple[Row, Report], None, None]:
    """Yield each pending row with its report, as it ends; rows that need no query come first."""
    asked: list[tuple[Row, Case]] = []
    stamped: list[Row] = []
    for row in pending:
        case = inputs.cases.get(row.path)
        reason = inputs.refused.get(row.path, "")
        if case is None:
            case = case_of_photo(row.path)
            reason = GONE if "#" in row.path and stamp_of_file(row.path) is None else ""
        if reason:
            report = make_failed_report(case, "skipped", reason)
            yield _final_row(_stamp_row(row, inputs), report), report
        else:
            asked.append((row, case))

    def cases() -> Iterator[Case]:
        for row, case in asked:
            stamped.append(_stamp_row(row, inputs))  # before it is read, so that later changes are detected
            yield case

    limits = Limits(settings.file_timeout_s, input_s=None)
    pictured = _measure_waits(reporter.prompts.read(cases(), pool, settings.max_memory_mb, limits), meter)
    waited_s, started_s = meter.seconds["waiting for decode"], time.perf_counter()
    with closing(reporter.reports(pictured, query)) as reports:
        for place, found in enumerate(reports):
            meter.add("head", time.perf_counter() - started_s - (meter.seconds["waiting for decode"] - waited_s))
            meter.windows += found.is_answered
            report = _with_absent(found, inputs.absent.get(stamped[place].path, ()))
            yield _final_row(stamped[place], report), report
            waited_s, started_s = meter.seconds["waiting for decode"], time.perf_counter()


def _measure_waits(pictured: Iterator[Pictured], meter: Meter) -> Iterator[Pictured]:
    while True:
        with meter.wait_for_decode():
            item = next(pictured, None)
        if item is None:
            return
        yield item


def _with_absent(report: Report, absent: Sequence[str]) -> Report:
    """Add to the report that its table names further photos that do not exist."""
    if not absent:
        return report
    reason = f"missing: {', '.join(absent)}"
    return replace(
        report,
        state="partial" if report.state == "ok" else report.state,
        reason="; ".join(filter(None, (report.reason, reason))),
    )


def _stamp_row(row: Row, inputs: CaseInputs) -> Row:
    size, changed_ns = inputs.stamps.get(row.path) or stamp_of_file(row.path) or (None, None)
    return replace(row, bytes=size, mtime_ns=changed_ns)


def _final_row(row: Row, report: Report) -> Row:
    return replace(row, state=report.state, reason=report.reason, predictions=int(report.is_answered))


def _line(row: Row, report: Report, query: Query, meter: Meter) -> bytes:
    if not report.is_answered:
        return b""
    prediction = query.prediction(report, row.path)
    meter.uncertain += bool(prediction.uncertain)
    return prediction.to_json()


def _identity(reporter: Reporter) -> dict[str, str]:
    """Return what must be equal for two runs to write to one folder, apart from the query."""
    return {
        "bundle": reporter.provenance["digest"],
        "contract": reporter.contract.digest,
        "runtime": reporter.runtime,
        "variant": reporter.variant,
        "answer_tokens": str(reporter.answer_tokens),
    }
