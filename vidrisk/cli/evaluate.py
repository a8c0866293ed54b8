"""``vidrisk eval``: score a bundle or a run on labelled data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vidrisk.cli.infer import Frames, SkipStatic
from vidrisk.cli.tables import Encoding, Sheet, Strict
from vidrisk.runtimes.contract.choices import RuntimeChoice, VariantChoice


def evaluate(
    model: Annotated[
        Path, typer.Argument(metavar="RUN|BUNDLE", show_default=False, help="A run directory or a bundle.")
    ],
    data: Annotated[Path, typer.Argument(metavar="DATA", show_default=False, help="Labelled data, as for train.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="JSON to write; plots and a page of errors go beside it."),
    ] = None,
    split: Annotated[
        Literal["train", "val", "test", "all"] | None,
        typer.Option(
            help="Score only this split of DATA; by default the test split, if DATA has one.", show_default=False
        ),
    ] = None,
    runtime: Annotated[
        RuntimeChoice,
        typer.Option(help="Engine; auto takes the fastest measured here. TensorRT engines are built once, first."),
    ] = "auto",
    variant: Annotated[
        VariantChoice, typer.Option(help="Precision; auto takes the fastest that passed the gate.")
    ] = "auto",
    frames: Frames = "all",
    skip_static: SkipStatic = 0.0,
    views: Annotated[
        int,
        typer.Option(
            min=1, max=32, help="Average the probabilities of clips over this many moments of each of their parts."
        ),
    ] = 1,
    mirror: Annotated[bool, typer.Option("--mirror", help="Also average over the mirror image of each view.")] = False,
    feature_cache: Annotated[
        bool,
        typer.Option("--feature-cache/--no-feature-cache", help="Cache the features of files, and reuse cached ones."),
    ] = True,
    strict: Strict = False,
    encoding: Encoding = None,
    sheet: Sheet = None,
    json: Annotated[bool, typer.Option("--json", help="Print the evaluation as JSON.")] = False,
) -> None:
    """Score a model on DATA, which may hold only some of the model's classes, or one.

    The figures are top-1 and top-5, macro-F1, mAP, ECE, per-class scores, confusion and the worst errors. Samples that
    cannot be read are left out and listed; the exit code is then 4.
    """
    from vidrisk.cli.console import progress_bar
    from vidrisk.cli.views import print_evaluation
    from vidrisk.data import check_leaks, load_table
    from vidrisk.inference.input_views import Views
    from vidrisk.inference.model import open_classifier
    from vidrisk.jobs.evaluate import check_new_evaluation, choose_scored, errors_page, evaluate, write_evaluation
    from vidrisk.jobs.run_settings import InferSettings
    from vidrisk.report.errors import build_errors
    from vidrisk.runtimes.contract.errors import EXIT_SOME_FAILED

    if out is not None:
        check_new_evaluation(out)
    with (
        progress_bar() as advance,
        open_classifier(model, runtime=runtime, variant=variant, on_progress=advance) as classifier,
    ):
        if out is not None:
            check_new_evaluation(out, [target.name for target in classifier.contract.targets])
        table = load_table(
            data,
            classifier.contract.task,
            min_labels=1,
            multi_label=classifier.contract.multi_targets,
            encoding=encoding,
            sheet=sheet,
            strict=strict,
        )
        check_leaks(table, strict=strict)
        result = evaluate(
            classifier,
            choose_scored(table, split, model),
            InferSettings(
                frames=frames, static_levels=skip_static, feature_cache=feature_cache and classifier.width is not None
            ),
            on_progress=advance,
            views=Views(views, mirror),
        )
    if out is not None:
        write_evaluation(result, out)
    print_evaluation(result, as_json=json)
    if out is not None:  # last, so that the figures are kept even if the page cannot be built
        build_errors(result, errors_page(out))
    if result.unreadable:
        raise typer.Exit(EXIT_SOME_FAILED)
