"""``vidrisk infer`` for a bundle that writes reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vidrisk.cli.console import progress_bar
from vidrisk.cli.infer_view import print_left_out
from vidrisk.data import load_cases
from vidrisk.decode.pool import DecodePool
from vidrisk.inference.open_reporter import TextServer, open_reporter
from vidrisk.jobs.case_inputs import find_cases
from vidrisk.jobs.compare_reports import ReportComparison, compare_run
from vidrisk.jobs.join_reports import read_leads
from vidrisk.jobs.ledger import resolve_choice
from vidrisk.jobs.report_run import run_reports
from vidrisk.jobs.report_settings import ReportSettings
from vidrisk.jobs.summary import Summary
from vidrisk.report import build_comparison, build_report
from vidrisk.runtimes.contract.errors import SettingsError


def server_from_options(url: str | None, model: str | None) -> TextServer | None:
    """Return the requested text server, or None.

    Raises:
        SettingsError: only one of the two options is given.
    """
    if url is None and model is None:
        return None
    if url is None or model is None:
        raise SettingsError(
            "--text-server and --text-model go together",
            allowed="a URL such as http://localhost:8000/v1, and the name of one of its models",
        )
    return TextServer(url, model)


def infer_reports(
    bundle: Path,
    paths: Sequence[str],
    out: Path,
    settings: ReportSettings,
    *,
    engine: tuple[str, str],
    threads: int | None,
    answer_tokens: int | None,
    server: TextServer | None,
    has_report: bool,
    shows_lines: bool,
    truth: Path | None = None,
    classifier: Path | None = None,
    photos: Path | None = None,
) -> tuple[Summary, ReportComparison | None, Path]:
    """Write reports, or answers to a question, over an output folder, and compare reports with a truth.

    ``engine`` is the runtime and variant. ``classifier`` is the output folder of a classifier over the same photos,
    whose levels take precedence in the texts. ``photos`` is the base folder of relative photo paths in tables.
    ``truth`` is a table of labelled cases, in the scheme of the bundle; it is read before anything is written.

    Returns:
        The summary, the comparison (None without a truth), and the file or folder to open next.
    """
    chosen = resolve_choice(out, *engine) if settings.resume else engine
    if chosen[0] == "server" and server is None:
        raise SettingsError(
            f"the answers in {out} are from a server",
            fix="name it with --text-server and --text-model, or choose another folder",
        )
    with DecodePool(settings.workers) as pool:
        with (
            progress_bar(lines=shows_lines) as advance,
            open_reporter(
                bundle,
                runtime=chosen[0],
                variant=chosen[1],
                threads=threads,
                answer_tokens=answer_tokens,
                server=server,
                on_progress=advance,
            ) as reporter,
        ):
            scheme = reporter.query(settings.question).scheme
            known = None if truth is None else load_cases(truth, scheme, photos=photos)
            leads = None if classifier is None else read_leads(classifier, reporter.require_scheme())
            inputs = find_cases(paths, scheme, photos)
            print_left_out(inputs.left_out)
            summary = run_reports(
                reporter,
                inputs,
                out,
                settings,
                pool=pool,
                leads=leads,
                on_progress=lambda p: advance(
                    "answer",
                    p.files,
                    p.files_total,
                    f"{p.pace.files_per_s:.1f} cases/s" if shows_lines and p.pace else "",
                ),
            )
        page = build_report(out, pool) if has_report else out
    if known is None or truth is None:
        return summary, None, page
    comparison = compare_run(out, known, scheme, leads=leads, tables=(truth,))
    return summary, comparison, build_comparison(out) if has_report else out
