"""``vidrisk bench``: all runtimes and variants of a bundle that work on this machine, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidrisk.cli.tables import Encoding, Sheet
from vidrisk.runtimes.contract.choices import RuntimeName, VariantName


def bench(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", show_default=False, help="Bundle that `vidrisk export` made.")
    ],
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA",
            show_default=False,
            help="Clips or photos to run end to end; labelled as for train, they also give the accuracy.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="JSON to write; a plot goes beside it.")
    ] = None,
    runtime: Annotated[RuntimeName | None, typer.Option(show_default="every one", help="This engine only.")] = None,
    variant: Annotated[VariantName | None, typer.Option(show_default="every one", help="This precision only.")] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=1024, metavar="N", show_default="the engine's default", help="Threads of the engines."),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, metavar="N", help="Maximum number of files of DATA, evenly spread.")
    ] = 64,
    encoding: Encoding = None,
    sheet: Sheet = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure latency, throughput and memory of every runtime and variant that works here, timed in turns.

    With DATA, also measure clips per second from file to prediction, and accuracy.

    Effective multiply-accumulates are compared with the fastest matrix product of this machine, and the end-to-end
    speed with what reading and encoding the files allow. Files that cannot be read are left out; the exit code is then
    4.
    """
    from vidrisk.bench.benchmark import run_bench
    from vidrisk.bench.output import check_output, write_bench
    from vidrisk.cli.bench_view import print_bench
    from vidrisk.cli.console import progress_bar
    from vidrisk.runtimes.contract.errors import EXIT_SOME_FAILED

    if out is not None:
        check_output(out)
    with progress_bar() as advance:
        result = run_bench(
            bundle,
            data,
            runtime=runtime,
            variant=variant,
            threads=threads,
            limit=limit,
            encoding=encoding,
            sheet=sheet,
            on_progress=advance,
        )
    if out is not None:
        write_bench(result, out)
    print_bench(result, as_json=json)
    if result.data and result.data.decode.held.unreadable:
        raise typer.Exit(EXIT_SOME_FAILED)
