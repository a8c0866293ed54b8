"""``vidrisk data convert``: tables of risks become data sets of reports, with their photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vidrisk.cli.tables import Encoding, Sheet

SchemeOption = Annotated[str | None, typer.Option(
    "--scheme", metavar="NAME|FILE", show_default="that of the Parquet file, or three-levels",
    help="Levels and fields: three-levels, three-levels-en, riskva, or a scheme.yaml.")]

PhotosOption = Annotated[Path | None, typer.Option(
    "--photos", metavar="FOLDER", show_default="that of the table", help="Folder that paths of photos are relative to.")]
SplitOption = Annotated[Literal["train", "val", "test"] | None, typer.Option(
    "--split", help="Only the cases of this split.")]


def convert(
    data: Annotated[Path, typer.Argument(
        metavar="DATA", help="A CSV, Excel, JSONL or Parquet table of risks, or a folder with train, val and test of these.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Folder to write, which must not exist.")],
    to: Annotated[Literal["risk-parquet", "risk-jsonl"], typer.Option(
        "--to", help="risk-parquet: photos in the rows. risk-jsonl: photos in files beside it.")] = "risk-parquet",
    scheme: SchemeOption = None,
    photos: PhotosOption = None,
    image_quality: Annotated[int, typer.Option(help="Of JPEG, 1 to 100.")] = 85,
    max_image_size: Annotated[tuple[int, int], typer.Option(
        metavar="WIDTH HEIGHT", help="Photos that are larger are scaled down, none is scaled up.")] = (1024, 1024),
    answers: Annotated[Literal["json", "brackets", "bold"], typer.Option(
        "--answers", help="json; brackets: 【label】：value; bold: **label**: value.")] = "json",
    ratios: Annotated[str, typer.Option(help="Parts for train:val:test, where the data have no split.")] = "8:1:1",
    seed: Annotated[int, typer.Option(help="Another seed gives another split.")] = 0,
    group_by: Annotated[str | None, typer.Option(
        help="Keep together what shares this column, or a regular expression's group in an id or a photo's name: 'house([0-9]+)'.",
    )] = None,
    force: Annotated[bool, typer.Option("--force", help="Split again what has a split already.")] = False,
    strict: Annotated[bool, typer.Option(
        "--strict",
        help="Refuse photos that are missing or cannot be read, and cases of one id, photo or group in two splits.")] = False,
    encoding: Encoding = None,
    sheet: Sheet = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the statistics as JSON.")] = False,
) -> None:
    """Write a table of risks as a data set of reports: prompts, answers and photos, split into train, val and test."""
    from vidrisk.cli.console import progress_bar
    from vidrisk.data import load_cases, ratios_from_text, split_cases
    from vidrisk.data.convert_cases import convert_cases
    from vidrisk.decode.messages import PhotoSettings

    settings = PhotoSettings(*max_image_size, image_quality)
    parts = ratios_from_text(ratios)
    cases = load_cases(data, scheme, photos=photos, strict=strict, encoding=encoding, sheet=sheet)
    cases = split_cases(cases, ratios=parts, seed=seed, group_by=group_by, force=force, strict=strict)
    with progress_bar() as advance:
        stats = convert_cases(cases, output, to, settings=settings, style=answers, strict=strict, progress=advance)
    _print_statistics(stats, output, json_output)


def _print_statistics(stats: dict[str, object], output: Path, as_json: bool) -> None:
    from vidrisk.cli.console import say, say_json, say_table

    if as_json:
        import json

        say_json(json.dumps(stats, ensure_ascii=False))
        return
    levels = stats["levels"]
    assert isinstance(levels, dict)
    say_table(("field", "level", "samples"), ((name, level or "–", str(count)) for name, found in levels.items()
                                              for level, count in found.items()),
              title=f"{stats['total_samples']} samples → {output}", right_from=2)
    for what in ("train_samples", "val_samples", "test_samples", "text_only_samples", "images", "missing_images",
                 "unreadable_images", "partial_images", "left_out"):
        say(f"{what.replace('_', ' ')}: {stats[what]}")
