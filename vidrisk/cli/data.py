"""``vidrisk data``: look at labelled data and split it, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from vidrisk.data import Table

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at labelled data, and split it into train, val and test.")


Data = Annotated[Path, typer.Argument(
    metavar="DATA", help="A folder with one sub-folder per class, or a CSV, JSONL or Parquet manifest.")]
TaskOption = Annotated[Literal["action", "risk"], typer.Option(
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
    json_output: Json = False,
) -> None:
    """Split data into train, val and test, and write the result as a manifest."""
    from vidrisk.data import load_table, ratios_from_text, split_table, write_table

    parts = ratios_from_text(ratios)
    table = split_table(load_table(data, task), ratios=parts, seed=seed, group_by=group_by, force=force)
    write_table(table, output)
    _print_counts(table, output, json_output)


@app.command()
def preview(
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG to write.")],
    task: TaskOption = "action",
    per_class: Annotated[int, typer.Option(min=1, max=100, help="Thumbnails per class.")] = 8,
    json_output: Json = False,
) -> None:
    """Draw a contact sheet: one row of thumbnails per class."""
    from vidrisk.data import contact_sheet, load_table

    table = load_table(data, task)
    contact_sheet(table, output, per_class=per_class)
    _print_counts(table, output, json_output)


def _print_counts(table: Table, output: Path, as_json: bool) -> None:
    """Samples per target, class and split; ``unsplit`` where there is none."""
    splits = [name for name in ("train", "val", "test") if len(table.of_split(name))]
    parts = {name: table.of_split(name) for name in splits}
    parts |= {"unsplit": table.with_samples(s for s in table.samples if s.split is None)}
    parts = {name: part for name, part in parts.items() if len(part)}
    counts = {target: {label: {name: part.label_counts(target).get(label, 0) for name, part in parts.items()}
                       for label in table.label_counts(target)} for target in table.target_names}
    if as_json:
        import json

        typer.echo(json.dumps({"output": str(output), "samples": len(table), "counts": counts}, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    grid = RichTable("target", "label", *parts, title=f"{len(table)} samples → {escape(str(output))}")
    for target, labels in counts.items():
        for label, row in labels.items():
            grid.add_row(target, escape(label), *map(str, row.values()))
    Console().print(grid)
