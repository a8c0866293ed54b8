"""What ``vidrisk infer`` does with a bundle that writes reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vidrisk.cli.console import progress_bar
from vidrisk.cli.infer_view import print_left_out
from vidrisk.decode.pool import DecodePool
from vidrisk.inference.open_reporter import TextServer, open_reporter
from vidrisk.jobs.case_inputs import find_cases
from vidrisk.jobs.ledger import resolve_choice
from vidrisk.jobs.report_run import run_reports
from vidrisk.jobs.report_settings import ReportSettings
from vidrisk.jobs.summary import Summary
from vidrisk.report import build_report
from vidrisk.runtimes.contract.errors import SettingsError


def server_from_options(url: str | None, model: str | None) -> TextServer | None:
    """Return the server that is asked for.

    Raises:
        SettingsError: one of both is missing.
    """
    if url is None and model is None:
        return None
    if url is None or model is None:
        raise SettingsError("--text-server and --text-model go together", allowed="a URL such as http://localhost:8000/v1, and the "
                            "name of a model that it has")
    return TextServer(url, model)


def infer_reports(bundle: Path, paths: Sequence[str], out: Path, settings: ReportSettings, *, engine: tuple[str, str],
                  threads: int | None, answer_tokens: int | None, server: TextServer | None, has_report: bool,
                  shows_lines: bool) -> tuple[Summary, Path]:
    """Write reports over an output folder.

    Args:
        engine: runtime and variant.

    Returns:
        The summary, and what to open next.
    """
    chosen = resolve_choice(out, *engine) if settings.resume else engine
    if chosen[0] == "server" and server is None:
        raise SettingsError(f"a server has answered in {out}", fix="name it with --text-server and --text-model, or choose another "
                            "folder")
    with DecodePool(settings.workers) as pool:
        with progress_bar(lines=shows_lines) as advance, open_reporter(
                bundle, runtime=chosen[0], variant=chosen[1], threads=threads, answer_tokens=answer_tokens, server=server,
                on_progress=advance) as reporter:
            inputs = find_cases(paths, reporter.needed_scheme())
            print_left_out(inputs.left_out)
            summary = run_reports(reporter, inputs, out, settings, pool=pool,
                                  on_progress=lambda p: advance(
                                      "write reports", p.files, p.files_total,
                                      f"{p.pace.files_per_s:.1f} cases/s" if shows_lines and p.pace else ""))
        return summary, build_report(out, pool) if has_report else out
