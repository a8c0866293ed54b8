"""``vidrisk bench``: every runtime and variant of a bundle that works here, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Runtime = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-tensorrt"]


def bench(
    bundle: Annotated[Path, typer.Argument(
        metavar="BUNDLE", show_default=False, help="Bundle that `vidrisk export` made.")],
    data: Annotated[Path | None, typer.Argument(
        metavar="DATA", show_default=False, help="Clips or photos to run end to end; for accuracy, labelled as for train.")] = None,
    out: Annotated[Path | None, typer.Option(
        "-o", "--output", metavar="FILE", help="JSON to write; a plot goes beside it.")] = None,
    runtime: Annotated[Runtime | None, typer.Option(show_default="every one", help="This engine only.")] = None,
    variant: Annotated[Literal["fp32", "fp16", "int8", "mixed"] | None, typer.Option(
        show_default="every one", help="This precision only.")] = None,
    threads: Annotated[int | None, typer.Option(
        min=1, max=1024, metavar="N", show_default="as the engine likes", help="Threads of the engines.")] = None,
    limit: Annotated[int, typer.Option(
        min=1, metavar="N", help="Files of DATA to take at most, evenly spread.")] = 64,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Latency, throughput and memory of every runtime and variant that works here, timed in turns; with DATA also clips per
    second from file to prediction, and accuracy.

    Effective multiply-accumulates are held against the fastest matrix product of this machine, and the whole way against
    what reading the files and encoding them allow. Files that cannot be read are left out; the exit code is then 4.
    """
    from vidrisk.bench.result import check_output, write_bench
    from vidrisk.bench.run import run_bench
    from vidrisk.cli.bench_view import print_bench
    from vidrisk.cli.console import progress_bar
    from vidrisk.runtimes.errors import EXIT_SOME_FAILED

    if out is not None:
        check_output(out)
    with progress_bar() as advance:
        result = run_bench(bundle, data, runtime=runtime, variant=variant, threads=threads, limit=limit, on_progress=advance)
    if out is not None:
        write_bench(result, out)
    print_bench(result, as_json=json)
    if result.data and result.data.decode.held.unreadable:
        raise typer.Exit(EXIT_SOME_FAILED)
