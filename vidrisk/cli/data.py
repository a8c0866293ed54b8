"""``vidrisk data``: inspect labelled data, split it, and import and convert data sets, before any training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidrisk.cli.convert import PhotosOption, SchemeOption, SplitOption, convert
from vidrisk.cli.labels import curve, suspects
from vidrisk.cli.tables import Encoding, MultiLabel, Sheet, Strict
from vidrisk.runtimes.contract.choices import LabelTask

if TYPE_CHECKING:
    from vidrisk.data import Table

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look at labelled data, split it into train, val and test, and import data sets.",
)


Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="A folder with one sub-folder per class, a data set (vidrisk data formats), or a CSV, Excel, JSONL or "
        "Parquet manifest.",
    ),
]
TaskOption = Annotated[
    LabelTask,
    typer.Option("--task", help="action: which action a clip shows. risk: which defect, how bad. action+risk: both."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def split(
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", help="Manifest to write: .csv, .jsonl or .parquet.")],
    task: TaskOption = "action",
    multi_label: MultiLabel = False,
    ratios: Annotated[str, typer.Option(help="Parts for train:val:test.")] = "8:1:1",
    seed: Annotated[int, typer.Option(help="Another seed gives another split.")] = 0,
    group_by: Annotated[
        str | None,
        typer.Option(
            help="Keep together what shares this column, or a regular expression's group in the name: 'seq([0-9]+)'."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Split again even if there is a split already.")] = False,
    strict: Strict = False,
    encoding: Encoding = None,
    sheet: Sheet = None,
    json_output: Json = False,
) -> None:
    """Split data into train, val and test, and write the result as a manifest."""
    from vidrisk.data import check_leaks, load_table, ratios_from_text, split_table, write_table

    parts = ratios_from_text(ratios)
    table = load_table(data, task, multi_label=multi_label, encoding=encoding, sheet=sheet, strict=strict)
    table = split_table(table, ratios=parts, seed=seed, group_by=group_by, force=force)
    check_leaks(table, strict=strict)
    write_table(table, output)
    _print_counts(table, output, json_output)


@app.command()
def preview(
    data: Data,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="PNG to write; a data set of reports needs none.")
    ] = None,
    task: TaskOption = "action",
    multi_label: MultiLabel = False,
    per_class: Annotated[int, typer.Option(min=1, max=100, help="Thumbnails per class, or per level.")] = 8,
    augment: Annotated[
        str | None,
        typer.Option(
            "--augment",
            metavar="KINDS",
            help="Show augmented versions of some samples instead: flip,zoom,light,still …",
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=1000, help="Rows of a data set of reports to print.")] = 10,
    scheme: SchemeOption = None,
    strict: Strict = False,
    encoding: Encoding = None,
    sheet: Sheet = None,
    json_output: Json = False,
) -> None:
    """Draw a contact sheet: one row of thumbnails per class. For a Parquet file of risk reports, also print rows."""
    if data.suffix.lower() == ".parquet":
        from vidrisk.data.parquet_rows import is_data_set

        if data.is_file() and is_data_set(data):
            _preview_reports(data, output, scheme, rows, per_class, strict, json_output)
            return
    from vidrisk.data import check_leaks, contact_sheet, load_table
    from vidrisk.runtimes.contract.errors import SettingsError

    if output is None:
        raise SettingsError("a preview without an output file", fix="name a PNG with -o")
    table = load_table(data, task, multi_label=multi_label, encoding=encoding, sheet=sheet, strict=strict)
    check_leaks(table, strict=strict)
    if augment is not None:
        from vidrisk.train.augment_sheet import augmentation_sheet, kinds_from_text

        augmentation_sheet(table, output, kinds_from_text(augment))
    else:
        contact_sheet(table, output, per_class=per_class)
    _print_counts(table, output, json_output)


def _preview_reports(
    data: Path, output: Path | None, scheme: str | None, rows: int, per_level: int, strict: bool, as_json: bool
) -> None:
    from vidrisk.cli.console import say_json, say_table
    from vidrisk.data import load_cases
    from vidrisk.data.preview_cases import cases_sheet, rows_of_cases

    cases = load_cases(data, scheme, labelled=False, strict=strict)
    columns, shown = rows_of_cases(cases, rows)
    unreadable = cases_sheet(cases, output, per_level=per_level) if output else ()
    if as_json:
        import json

        say_json(
            json.dumps(
                {
                    "samples": len(cases),
                    "scheme": cases.scheme.name,
                    "levels": cases.level_counts(),
                    "rows": [dict(zip(columns, row, strict=True)) for row in shown],
                    "unreadable": unreadable,
                },
                ensure_ascii=False,
            )
        )
        return
    say_table(columns, shown, title=f"{len(cases)} samples, scheme {cases.scheme.name}, the first {len(shown)}")


app.command()(convert)
app.command()(suspects)
app.command()(curve)


@app.command("import")
def import_data_set(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The folder or file of a data set.")],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="MANIFEST",
            help="Manifest to write: .csv, .jsonl or .parquet, in a folder above the files.",
        ),
    ],
    format_name: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", show_default="recognised", help="One of `vidrisk data formats`."),
    ] = None,
    task: Annotated[
        LabelTask | None,
        typer.Option(
            "--task", show_default="that of the format", help="What the labels are about: action, risk, or action+risk."
        ),
    ] = None,
    number: Annotated[
        int | None,
        typer.Option("--split", metavar="N", show_default="1", help="Official split: 1 to 3 of UCF101 and HMDB51."),
    ] = None,
    media: Annotated[
        Path | None,
        typer.Option("--media", metavar="FOLDER", show_default="beside SOURCE", help="Folder of the clips or photos."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", metavar="FPS", help="Frame rate of the labels, if the data set does not state it."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels", metavar="FILE", help="Names of the classes, if the data set holds only their numbers."
        ),
    ] = None,
    multi_label: Annotated[
        bool | None,
        typer.Option(
            "--multi-label/--one-label",
            show_default="what the data hold",
            help="Whether a sample may have any number of classes.",
        ),
    ] = None,
    crops: Annotated[bool, typer.Option("--crops", help="Make every box a photo of its own.")] = False,
    per_class: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default="all",
            help="Keep at most this many clips of each class in each split, to try things out.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives another val, and other clips with --per-class.")] = 0,
    strict: Strict = False,
    json_output: Json = False,
) -> None:
    """Write a data set as a manifest; photos embedded in its files are extracted to a folder beside the manifest."""
    from vidrisk.data import check_leaks, write_table
    from vidrisk.data.choice import few_per_class
    from vidrisk.data.data_sets import import_data
    from vidrisk.data.io import check_new_manifest

    check_new_manifest(output)
    found = import_data(
        source,
        name=format_name,
        task=task,
        split=number,
        media=media,
        rate=rate,
        labels=labels,
        multi_label=multi_label,
        crops=crops,
        made=output.parent / f"{output.stem}_photos",
        seed=seed,
        strict=strict,
    )
    table = few_per_class(found.table, per_class, seed) if per_class else found.table
    check_leaks(table, strict=strict)
    write_table(table, output)
    _print_counts(table, output, json_output, format=found.format.name, listed=found.listed, absent=len(found.absent))


@app.command()
def formats(json_output: Json = False) -> None:
    """List the formats of data sets: what is read, what is written, and which information is kept."""
    from vidrisk.cli.console import say_json, say_table
    from vidrisk.data.formats import FORMATS

    if json_output:
        import json

        say_json(
            json.dumps(
                [
                    {
                        "name": known.name,
                        "title": known.title,
                        "tasks": known.tasks,
                        "signs": known.signs,
                        "writes": known.write is not None,
                        "carries": sorted(known.carries),
                    }
                    for known in FORMATS.values()
                ]
            )
        )
        return
    say_table(
        ("format", "data set", "tasks", "written", "carries"),
        (
            (
                known.name,
                known.title,
                ", ".join(known.tasks),
                "yes" if known.write else "no",
                ", ".join(sorted(known.carries)),
            )
            for known in FORMATS.values()
        ),
        title="formats of data sets",
    )


@app.command()
def index(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Output folder of `vidrisk infer … --save-features` over labelled photos."),
    ],
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="The table of these photos with their labels.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Index to write: .npz.")],
    scheme: SchemeOption = None,
    photos: PhotosOption = None,
    split: SplitOption = None,
    encoding: Encoding = None,
    sheet: Sheet = None,
    json_output: Json = False,
) -> None:
    """Index labelled cases by their photos' features, so that reports can show similar cases and their advice."""
    from vidrisk.cli.console import say, say_json
    from vidrisk.data import load_cases
    from vidrisk.inference.neighbours import write_index
    from vidrisk.jobs.similar_cases import index_from_run

    cases = load_cases(table, scheme, photos=photos, encoding=encoding, sheet=sheet)
    found = index_from_run(run, cases.of_split(split) if split else cases)
    write_index(found, output)
    if json_output:
        import json

        say_json(
            json.dumps(
                {"output": str(output), "photos": len(found), "features": found.vectors.shape[1]}, ensure_ascii=False
            )
        )
    else:
        say(f"{len(found)} photos, {found.vectors.shape[1]} features each → {output}")


def _print_counts(table: Table, output: Path, as_json: bool, **more: str | int) -> None:
    """Print the samples per target, class and split; ``unsplit`` if there is no split."""
    from vidrisk.cli.console import say, say_json, say_table

    splits = [name for name in ("train", "val", "test") if len(table.of_split(name))]
    parts = {name: table.of_split(name) for name in splits}
    parts |= {"unsplit": table.with_samples(s for s in table.samples if s.split is None)}
    parts = {name: part for name, part in parts.items() if len(part)}
    counts = {
        target: {
            label: {name: part.label_counts(target).get(label, 0) for name, part in parts.items()}
            for label in table.label_counts(target)
        }
        for target in table.target_names
    }
    if as_json:
        import json

        told = {"output": str(output), "samples": len(table), **more, "notes": list(table.notes), "counts": counts}
        say_json(json.dumps(told, ensure_ascii=False))
        return
    say_table(
        ("target", "label", *parts),
        (
            (target, label, *map(str, row.values()))
            for target, labels in counts.items()
            for label, row in labels.items()
        ),
        title=f"{len(table)} samples → {output}",
    )
    for note in table.notes:
        say(note)
