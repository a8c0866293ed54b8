"""``vidrisk compare``: two models on the same data, or reports with the truth, a classifier and similar cases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vidrisk.cli.convert import PhotosOption, SchemeOption
from vidrisk.cli.tables import Encoding, Sheet


def compare(
    first: Annotated[
        Path,
        typer.Argument(
            metavar="A|OUT",
            help="A bundle or run; or the output folder of `vidrisk infer` with a bundle that writes reports.",
        ),
    ],
    second: Annotated[
        Path | None,
        typer.Argument(
            metavar="[B|TRUTH]",
            show_default=False,
            help="Another bundle or run; or labelled cases: a CSV, Excel, JSONL or Parquet table, or a folder of them.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATA]", show_default=False, help="Labelled data that both models answer, as for eval."
        ),
    ] = None,
    classifier: Annotated[
        Path | None,
        typer.Option(
            "--classifier",
            metavar="OUT",
            help="Reports: output folder of a classifier over the same photos; its level takes precedence.",
        ),
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option(
            "--cases",
            metavar="FILE",
            help="Reports: index that `vidrisk data index` made, searched with the features that --classifier has "
            "saved; the most similar labelled cases are shown beside each report.",
        ),
    ] = None,
    scheme: SchemeOption = None,
    photos: PhotosOption = None,
    split: Annotated[
        Literal["train", "val", "test", "all"] | None,
        typer.Option(
            help="Only this split. Models: the test split, if DATA has one. Reports: all.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="JSON", help="Models: file to write.")
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(help="Models: samples that share this column or regular expression are not independent evidence."),
    ] = None,
    encoding: Encoding = None,
    sheet: Sheet = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Reports: leave comparison.html out.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare two models A and B on DATA: significantly better, worse or undecided, and how many samples would decide.

    Or compare the reports in OUT with TRUTH, by the id of the case or the name of the photo: levels, choices, texts,
    confidence. That writes comparison.json, comparison.jsonl and comparison.html into OUT.
    """
    from vidrisk.cli.refused import refuse_options

    if data is not None and second is not None:
        of_reports = {
            "--classifier": classifier,
            "--cases": cases,
            "--scheme": scheme,
            "--photos": photos,
            "--no-page": no_page,
        }
        refuse_options({name: bool(given) for name, given in of_reports.items()}, "with two models")
        _compare_models(first, second, data, split, output, group_by, encoding, sheet, json_output)
        return
    refuse_options({"--output": bool(output), "--group-by": bool(group_by)}, "without two models and data")
    _compare_reports(first, second, classifier, cases, scheme, photos, split, encoding, sheet, no_page, json_output)


def _compare_models(
    first: Path,
    second: Path,
    data: Path,
    split: str | None,
    output: Path | None,
    group_by: str | None,
    encoding: str | None,
    sheet: str | None,
    as_json: bool,
) -> None:
    from vidrisk.cli.compare_view import print_models
    from vidrisk.cli.console import progress_bar
    from vidrisk.data import load_table
    from vidrisk.data.io import check_new_file, write_new_file
    from vidrisk.data.split import group_table
    from vidrisk.inference.model import open_classifier
    from vidrisk.jobs.compare_models import compare_models
    from vidrisk.jobs.evaluate import choose_scored

    if output is not None:
        check_new_file(output, (".json",))
    with progress_bar() as advance, open_classifier(first) as one, open_classifier(second) as other:
        table = load_table(
            data,
            one.contract.task,
            min_labels=1,
            multi_label=one.contract.multi_targets,
            encoding=encoding,
            sheet=sheet,
        )
        table = group_table(choose_scored(table, split, first, second), group_by)
        found = compare_models(one, other, table, on_progress=advance)
    if output is not None:
        write_new_file(output, found.to_json().encode() + b"\n")
    print_models(found, as_json=as_json)


def _compare_reports(
    out: Path,
    truth: Path | None,
    classifier: Path | None,
    cases: Path | None,
    scheme: str | None,
    photos: Path | None,
    split: str | None,
    encoding: str | None,
    sheet: str | None,
    no_page: bool,
    as_json: bool,
) -> None:
    from vidrisk.cli.compare_view import print_comparison
    from vidrisk.data import load_cases, load_scheme
    from vidrisk.data.case_tables import DEFAULT_SCHEME
    from vidrisk.inference.neighbours import read_index
    from vidrisk.jobs.compare_reports import compare_run
    from vidrisk.jobs.join_reports import read_leads
    from vidrisk.jobs.similar_cases import SimilarCases
    from vidrisk.report import build_comparison
    from vidrisk.runtimes.contract.errors import SettingsError

    if cases and not classifier:
        raise SettingsError(
            "--cases without --classifier", allowed="the run that has saved features of the photos", fix="add it"
        )
    known = None if truth is None else load_cases(truth, scheme, photos=photos, encoding=encoding, sheet=sheet)
    if known is not None and split not in (None, "all"):
        known = known.of_split(split)
    written_by = known.scheme if known is not None else load_scheme(scheme or DEFAULT_SCHEME)
    comparison = compare_run(
        out,
        known,
        written_by,
        leads=read_leads(classifier, written_by) if classifier else None,
        similar=SimilarCases(read_index(cases), classifier) if cases and classifier else None,
        tables=() if truth is None else (truth,),
    )
    page = out if no_page else build_comparison(out)
    print_comparison(comparison, page, as_json=as_json)
