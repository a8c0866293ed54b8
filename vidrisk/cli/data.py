"""``vidrisk data``: look at labelled data and split it, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidrisk.cli.tables import Encoding, Sheet, Strict
from vidrisk.runtimes.contract.choices import Task

if TYPE_CHECKING:
    from vidrisk.data import Table

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at labelled data, and split it into train, val and test.")


Data = Annotated[Path, typer.Argument(
    metavar="DATA", help="A folder with one sub-folder per class, or a CSV, Excel, JSONL or Parquet manifest.")]
TaskOption = Annotated[Task, typer.Option(
    "--task", help="action: which action a clip shows. risk: which defect, how bad.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def split(
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", help="Manifest to write: .csv, .jsonl or .parquet.")],
    task: TaskOption = "action",
    ratios: Annotated[str, typer.Option(help="Parts for train:val:test.")] = "8:1:1",
    seed: Annotated[int, typer.Option(help="Another seed gives another split.")] = 0,
    group_by: Annotated[str | None, typer.Option(
        help="Keep together what shares this column, or a regular expression's group in the name: 'seq([0-9]+)'.",
    )] = None,
    force: Annotated[bool, typer.Option("--force", help="Split again what has a split already.")] = False,
    strict: Strict = False,
    encoding: Encoding = None,
    sheet: Sheet = None,
    json_output: Json = False,
) -> None:
    """Split data into train, val and test, and write the result as a manifest."""
    from vidrisk.data import check_leaks, load_table, ratios_from_text, split_table, write_table

    parts = ratios_from_text(ratios)
    table = load_table(data, task, encoding=encoding, sheet=sheet)
    table = split_table(table, ratios=parts, seed=seed, group_by=group_by, force=force)
    check_leaks(table, strict=strict)
    write_table(table, output)
    _print_counts(table, output, json_output)


@app.command()
def preview(
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG to write.")],
    task: TaskOption = "action",
    per_class: Annotated[int, typer.Option(min=1, max=100, help="Thumbnails per class.")] = 8,
    strict: Strict = False,
    encoding: Encoding = None,
    sheet: Sheet = None,
    json_output: Json = False,
) -> None:
    """Draw a contact sheet: one row of thumbnails per class."""
    from vidrisk.data import check_leaks, contact_sheet, load_table

    table = load_table(data, task, encoding=encoding, sheet=sheet)
    check_leaks(table, strict=strict)
    contact_sheet(table, output, per_class=per_class)
    _print_counts(table, output, json_output)


def _print_counts(table: Table, output: Path, as_json: bool) -> None:
    """Samples per target, class and split; ``unsplit`` where there is none."""
    from vidrisk.cli.console import say_json, say_table

    splits = [name for name in ("train", "val", "test") if len(table.of_split(name))]
    parts = {name: table.of_split(name) for name in splits}
    parts |= {"unsplit": table.with_samples(s for s in table.samples if s.split is None)}
    parts = {name: part for name, part in parts.items() if len(part)}
    counts = {target: {label: {name: part.label_counts(target).get(label, 0) for name, part in parts.items()}
                       for label in table.label_counts(target)} for target in table.target_names}
    if as_json:
        import json

        say_json(json.dumps({"output": str(output), "samples": len(table), "counts": counts}, ensure_ascii=False))
        return
    say_table(("target", "label", *parts), ((target, label, *map(str, row.values())) for target, labels in counts.items()
                                            for label, row in labels.items()), title=f"{len(table)} samples → {output}")
