"""``vidrisk data convert``: tables of risks to data sets of reports, and labelled data to other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vidrisk.cli.tables import Encoding, MultiLabel, Sheet
from vidrisk.runtimes.contract.choices import LabelTask

SchemeOption = Annotated[
    str | None,
    typer.Option(
        "--scheme",
        metavar="NAME|FILE",
        show_default="that of the Parquet file, or three-levels",
        help="Levels and fields: three-levels, three-levels-en, riskva, or a scheme.yaml.",
    ),
]

PhotosOption = Annotated[
    Path | None,
    typer.Option(
        "--photos", metavar="FOLDER", show_default="that of the table", help="Base folder of relative photo paths."
    ),
]
SplitOption = Annotated[
    Literal["train", "val", "test"] | None, typer.Option("--split", help="Only the cases of this split.")
]


REPORTS = ("risk-parquet", "risk-jsonl")
_OF_REPORTS = ("scheme", "photos", "image_quality", "max_image_size", "answers", "ratios", "seed", "group_by", "force")
_OF_LABELS = ("task", "multi_label", "media")


def convert(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A CSV, Excel, JSONL or Parquet table, a folder, a data set, or an output folder of `vidrisk infer`, "
            "whose predictions become labels to correct.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="PATH", help="Folder or file to write, which must not exist.")
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="Reports: risk-parquet (photos in the rows) or risk-jsonl (beside it). Labels: what "
            "`vidrisk data formats` lists.",
        ),
    ] = "risk-parquet",
    task: Annotated[LabelTask, typer.Option("--task", help="Labels: action, risk, or action+risk.")] = "action",
    multi_label: MultiLabel = False,
    media: Annotated[
        Path | None,
        typer.Option(
            "--media",
            metavar="FOLDER",
            show_default="above all inputs",
            help="Predictions: base folder of relative file names.",
        ),
    ] = None,
    scheme: SchemeOption = None,
    photos: PhotosOption = None,
    image_quality: Annotated[int, typer.Option(help="Reports: JPEG quality, 1 to 100.")] = 85,
    max_image_size: Annotated[
        tuple[int, int],
        typer.Option(metavar="WIDTH HEIGHT", help="Reports: larger photos are scaled down; none is scaled up."),
    ] = (1024, 1024),
    answers: Annotated[
        Literal["json", "brackets", "bold"],
        typer.Option("--answers", help="Reports: json; brackets: 【label】：value; bold: **label**: value."),
    ] = "json",
    ratios: Annotated[
        str, typer.Option(help="Reports: parts for train:val:test, if the data have no split.")
    ] = "8:1:1",
    seed: Annotated[int, typer.Option(help="Reports: another seed gives another split.")] = 0,
    group_by: Annotated[
        str | None,
        typer.Option(
            help="Reports: keep together what shares this column, or a regular expression's group in an id or a "
            "photo's name: 'house([0-9]+)'."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Reports: split again even if there is a split already.")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Refuse missing or unreadable files, and cases of the same id, photo or group in two splits.",
        ),
    ] = False,
    encoding: Encoding = None,
    sheet: Sheet = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the statistics as JSON.")] = False,
) -> None:
    """Write a table of risks as a data set of reports, or labelled data in another format.

    Information that the format cannot hold is counted and reported.
    """
    from vidrisk.cli.refused import refuse_options

    is_report = to in REPORTS
    given = {
        f"--{name.replace('_', '-')}": str(context.get_parameter_source(name)).endswith("COMMANDLINE")
        for name in (_OF_LABELS if is_report else _OF_REPORTS)
    }
    refuse_options(given, f"with --to {to}")
    if is_report:
        _convert_reports(
            data,
            output,
            to,
            scheme,
            photos,
            (*max_image_size, image_quality),
            answers,
            ratios,
            seed,
            group_by,
            force,
            strict,
            encoding,
            sheet,
            json_output,
        )
    else:
        _convert_labels(data, output, to, task, multi_label, media, strict, encoding, sheet, json_output)


def _convert_reports(
    data: Path,
    output: Path,
    to: str,
    scheme: str | None,
    photos: Path | None,
    sizes: tuple[int, int, int],
    answers: Literal["json", "brackets", "bold"],
    ratios: str,
    seed: int,
    group_by: str | None,
    force: bool,
    strict: bool,
    encoding: str | None,
    sheet: str | None,
    as_json: bool,
) -> None:
    from vidrisk.cli.console import progress_bar
    from vidrisk.data import load_cases, ratios_from_text, split_cases
    from vidrisk.data.convert_cases import check_new_folder, convert_cases
    from vidrisk.decode.messages import PhotoSettings

    check_new_folder(output)
    settings = PhotoSettings(*sizes)
    parts = ratios_from_text(ratios)
    cases = load_cases(data, scheme, photos=photos, strict=strict, encoding=encoding, sheet=sheet)
    cases = split_cases(cases, ratios=parts, seed=seed, group_by=group_by, force=force, strict=strict)
    with progress_bar() as advance:
        stats = convert_cases(
            cases,
            output,
            "risk-parquet" if to == "risk-parquet" else "risk-jsonl",
            settings=settings,
            style=answers,
            strict=strict,
            progress=advance,
        )
    _print_statistics(stats, output, as_json)


def _convert_labels(
    data: Path,
    output: Path,
    to: str,
    task: LabelTask,
    multi_label: bool,
    media: Path | None,
    strict: bool,
    encoding: str | None,
    sheet: str | None,
    as_json: bool,
) -> None:
    from vidrisk.cli.console import say, say_json
    from vidrisk.cli.refused import refuse_options
    from vidrisk.data import load_table
    from vidrisk.data.data_sets import check_destination, write_data_set
    from vidrisk.jobs.predicted_table import is_run_output, table_from_predictions

    check_destination(output, to, also=REPORTS)
    model = None
    if is_run_output(data):
        refuse_options(
            {"--multi-label": multi_label, "--encoding": bool(encoding), "--sheet": bool(sheet)}, "of predictions"
        )
        table, model = table_from_predictions(data, media)
    else:
        refuse_options({"--media": bool(media)}, "without predictions")
        table = load_table(
            data, task, min_labels=1, multi_label=multi_label, encoding=encoding, sheet=sheet, strict=strict
        )
    written = write_data_set(table, output, name=to, model=model)
    if as_json:
        import json

        told = {
            "output": str(output),
            "format": to,
            "model": model,
            "samples": written.samples,
            "lost": dict(written.lost),
        }
        say_json(json.dumps(told, ensure_ascii=False))
        return
    say(f"{written.samples} of {len(table)} samples → {output}")
    for what, count in written.lost.items():
        say(f"lost: {what} ({count})")


def _print_statistics(stats: dict[str, object], output: Path, as_json: bool) -> None:
    from vidrisk.cli.console import say, say_json, say_table

    if as_json:
        import json

        say_json(json.dumps(stats, ensure_ascii=False))
        return
    levels = stats["levels"]
    assert isinstance(levels, dict)
    say_table(
        ("field", "level", "samples"),
        ((name, level or "–", str(count)) for name, found in levels.items() for level, count in found.items()),
        title=f"{stats['total_samples']} samples → {output}",
        right_from=2,
    )
    for what in (
        "train_samples",
        "val_samples",
        "test_samples",
        "text_only_samples",
        "images",
        "missing_images",
        "unreadable_images",
        "partial_images",
        "left_out",
    ):
        say(f"{what.replace('_', ' ')}: {stats[what]}")
