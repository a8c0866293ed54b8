"""``vidrisk infer``: batched, resumable prediction of files, folders and globs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class RuntimeChoice(str, Enum):
    auto = "auto"
    onnxruntime = "onnxruntime"
    openvino = "openvino"
    torch = "torch"


class VariantChoice(str, Enum):
    auto = "auto"
    fp32 = "fp32"
    int8 = "int8"
    mixed = "mixed"


def infer(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle that `vidrisk export` made, or a run.")],
    paths: Annotated[list[str], typer.Argument(metavar="PATH…", help="Clips, photos: files, folders, quoted globs.")],
    out: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="New folder for what is found.")],
    runtime: Annotated[RuntimeChoice, typer.Option(
        help="Engine; auto takes the fastest measured here.")] = RuntimeChoice.auto,
    variant: Annotated[VariantChoice, typer.Option(
        help="Precision; auto takes the fastest that passed the gate.")] = VariantChoice.auto,
    window: Annotated[float | None, typer.Option(
        metavar="S", help="Predict windows of S seconds.", show_default="as trained")] = None,
    stride: Annotated[float | None, typer.Option(
        metavar="S", help="A window every S seconds.", show_default="window")] = None,
    workers: Annotated[int | None, typer.Option(
        min=1, max=64, metavar="N", help="Decode threads.", show_default="cores, 8 at most")] = None,
    resume: Annotated[bool, typer.Option(
        "--resume", help="Continue the run in OUT. Files that changed since are done again.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Leave report.html out.")] = False,
) -> None:
    """Predict clips and photos into OUT: predictions.jsonl, ledger.sqlite, summary.json and report.html.

    An input that cannot be read becomes a row of the ledger with its reason, and the run goes on; the exit code is
    then 4.
    """
    from vidrisk.cli.console import progress_bar
    from vidrisk.cli.infer_view import print_summary
    from vidrisk.infer.classifier import open_classifier
    from vidrisk.infer.ledger import settled_choice
    from vidrisk.infer.pipeline import InferSettings, default_workers, run_inference
    from vidrisk.infer.sources import find_inputs
    from vidrisk.report import build_report
    from vidrisk.runtimes.errors import EXIT_SOME_FAILED

    settings = InferSettings(window_s=window, stride_s=stride, workers=workers or default_workers(), resume=resume)
    inputs = find_inputs(paths)
    settled = runtime.value, variant.value
    if resume:
        settled = settled_choice(out, *settled)
    with open_classifier(bundle, runtime=settled[0], variant=settled[1]) as classifier, progress_bar() as advance:
        summary = run_inference(classifier, inputs, out, settings,
                                on_progress=lambda p: advance("predict", p.files, p.files_total))
    page = None if no_report else build_report(out)
    print_summary(summary, page or out, as_json=json_output)
    if summary.failed:
        raise typer.Exit(EXIT_SOME_FAILED)
