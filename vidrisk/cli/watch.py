"""``vidrisk watch``: predicts the files that arrive in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidrisk.cli.infer import FileTimeout, Frames, MaxMemory, SkipStatic, Threads, Workers
from vidrisk.runtimes.contract.choices import RuntimeChoice, VariantChoice


def watch(
    inbox: Annotated[
        Path, typer.Argument(metavar="INBOX", show_default=False, help="Folder where clips and photos arrive.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="OUT", show_default=False, help="Folder for the results, with one folder per day."
        ),
    ],
    bundle: Annotated[
        Path, typer.Option(metavar="BUNDLE", show_default=False, help="Bundle that `vidrisk export` made.")
    ],
    runtime: Annotated[RuntimeChoice, typer.Option(help="Engine; auto takes the fastest measured here.")] = "auto",
    variant: Annotated[
        VariantChoice, typer.Option(help="Precision; auto takes the fastest that passed the gate.")
    ] = "auto",
    window: Annotated[
        float | None, typer.Option(metavar="S", help="Predict windows of S seconds.", show_default="as trained")
    ] = None,
    stride: Annotated[
        float | None, typer.Option(metavar="S", help="A window every S seconds.", show_default="window")
    ] = None,
    frames: Frames = "all",
    skip_static: SkipStatic = 0.0,
    workers: Workers = None,
    threads: Threads = None,
    file_timeout: FileTimeout = 60.0,
    max_memory: MaxMemory = 2048,
    settle: Annotated[
        float, typer.Option(min=0, metavar="S", help="A file is complete when it has not changed for S seconds.")
    ] = 2.0,
    poll: Annotated[float, typer.Option(min=0.01, metavar="S", help="Check the folder every S seconds.")] = 2.0,
    report_every: Annotated[
        float, typer.Option(min=0, metavar="S", help="Rewrite today's report.html at most every S seconds.")
    ] = 300.0,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.html.")] = False,
    keep_days: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            show_default="all",
            help="Keep the results of the last N days that have any, and delete older ones.",
        ),
    ] = None,
    move_done: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", show_default="stay where they are", help="Move files to DIR at the end of their day."
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Predict the files present now, and exit: for cron.")] = False,
) -> None:
    """Predict the files that arrive in INBOX; every day gets a folder in OUT, as `vidrisk infer` writes it.

    If the engine, the driver or the bundle has changed, the golden samples of the bundle are run first: if answers
    differ from those of the export, nothing is predicted (exit code 3).

    Files whose names begin with a dot or end in .part or .tmp are ignored. Ends on SIGTERM or Ctrl-C; the next watch
    continues there.
    """
    from vidrisk.cli.console import progress_bar, say
    from vidrisk.decode.pool import default_workers
    from vidrisk.inference.model import open_classifier
    from vidrisk.jobs.run_settings import InferSettings
    from vidrisk.jobs.summary import count_failed
    from vidrisk.runtimes.contract.errors import EXIT_SOME_FAILED
    from vidrisk.verify.start import ensure_same_answers
    from vidrisk.watch import Batch, WatchSettings, watch_inbox
    from vidrisk.watch.signals import end_on_sigterm

    failed = 0

    def tell(batch: Batch) -> None:
        nonlocal failed
        failed += count_failed(batch.states)
        say(str(batch))

    settings = WatchSettings(
        settle_s=settle,
        poll_s=poll,
        report_every_s=None if no_report else report_every,
        keep_dates=keep_days,
        move_done=move_done,
        once=once,
    )
    infer = InferSettings(
        window_s=window,
        stride_s=stride,
        workers=workers or default_workers(),
        frames=frames,
        static_levels=skip_static,
        file_timeout_s=file_timeout,
        max_memory_mb=max_memory,
    )
    with end_on_sigterm():
        with progress_bar(lines=True) as advance:  # for engines that have to be built first
            opened = open_classifier(bundle, runtime=runtime, variant=variant, threads=threads, on_progress=advance)
        with opened as classifier:
            ensure_same_answers(bundle, classifier)
            watch_inbox(classifier, inbox, out, settings, infer, on_batch=tell)
    if once and failed:
        raise typer.Exit(EXIT_SOME_FAILED)
