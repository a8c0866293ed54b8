"""``vidrisk train``: from labelled clips or photos to a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidrisk.cli.tables import Encoding, MultiLabel, Sheet, Strict
from vidrisk.runtimes.contract.choices import Task


def train(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            show_default=False,
            help="A folder with one sub-folder per class or of UCF101 or Something-Something V2, or a CSV, Excel, "
            "JSONL or Parquet manifest. For reports: a table of cases, or conversations (LLaVA, ShareGPT, ms-swift, "
            "captions).",
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--output", metavar="RUN", show_default=False, help="New folder for the run.")
    ],
    task: Annotated[
        Task | None,
        typer.Option(
            show_default="action",
            help="action: which action a clip shows. risk: which defect, how bad. report: a report in words.",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            show_default="efficientnet-lite0",
            help="efficientnet-lite0, a Hugging Face hub id, or a local folder.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="YAML", help="File of settings, such as config.yaml of a run.")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            show_default=False,
            help="Start from a finished run: its weights are merged, and its settings, except those about its data, "
            "apply unless others are given.",
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as optim.epochs=3; may be repeated."),
    ] = None,
    group_by: Annotated[
        str | None, typer.Option(help="Keep together in the split what shares this column or regular expression.")
    ] = None,
    scheme: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|YAML", show_default="that of the data, or three-levels", help="Levels and fields of reports."
        ),
    ] = None,
    photos: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", show_default="that of DATA", help="Reports: base folder of relative photo paths."
        ),
    ] = None,
    multi_label: MultiLabel = False,
    strict: Strict = False,
    encoding: Encoding = None,
    sheet: Sheet = None,
    tune: Annotated[
        int | None,
        typer.Option(
            "--tune",
            metavar="N",
            show_default="no search",
            help="First try N settings, 2 to 200, by cross-validation on the training split; those of --set and "
            "--config stay fixed.",
        ),
    ] = None,
    tune_minutes: Annotated[
        float | None,
        typer.Option(
            "--tune-minutes",
            metavar="M",
            show_default="no limit",
            help="Start no trial that would not finish within M minutes of the search.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the unfinished run in RUN.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Train LoRA and the head jointly on DATA and write the run: weights, metrics, split, plots, TensorBoard.

    With --task report, train LoRA and the projector of a vision-language model on the answers of conversations.
    """
    from vidrisk.cli.console import progress_bar
    from vidrisk.cli.launched import silence_other_processes
    from vidrisk.cli.views import print_training
    from vidrisk.runtimes.contract.errors import require

    require("torch", "train")
    from vidrisk.models.given_settings import collect_given_names
    from vidrisk.models.run import open_start
    from vidrisk.train.train_data import train_data
    from vidrisk.train.tune_space import tuning_from_options

    with silence_other_processes() as is_main:
        of_reports = {
            f"report.{name}": value for name, value in (("scheme", scheme), ("photos", photos)) if value is not None
        }
        base, settings = open_start(
            start,
            config,
            assignments or (),
            of_reports,
            task=task,
            backbone=backbone,
            group_by=group_by,
            multi_label=multi_label or None,
        )
        search = tuning_from_options(tune, tune_minutes, collect_given_names(config, assignments or ()))
        with progress_bar(lines=True) as advance:
            run = train_data(
                data,
                settings,
                out,
                start=base,
                resume=resume,
                strict=strict,
                encoding=encoding,
                sheet=sheet,
                tune=search,
                on_progress=advance,
            )
    if is_main:
        print_training(run.root, as_json=json)
