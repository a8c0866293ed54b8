"""``vidrisk compare``: generated reports of a run beside the truth, beside a classifier's levels and beside similar cases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidrisk.cli.convert import PhotosOption, SchemeOption, SplitOption
from vidrisk.cli.tables import Encoding, Sheet


def compare(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder of `vidrisk infer` with a bundle that writes reports.")],
    truth: Annotated[Path | None, typer.Argument(
        metavar="[TRUTH]", show_default=False,
        help="Labelled cases: a CSV, Excel, JSONL or Parquet table, or a folder of these.")] = None,
    classifier: Annotated[Path | None, typer.Option(
        "--classifier", metavar="OUT", help="Output folder of a classifier over the same photos: its level leads.")] = None,
    cases: Annotated[Path | None, typer.Option(
        "--cases", metavar="FILE", help="Index that `vidrisk data index` made, asked with the features that --classifier has "
                                        "saved: the most similar labelled cases are shown beside each report.")] = None,
    scheme: SchemeOption = None,
    photos: PhotosOption = None,
    split: SplitOption = None,
    encoding: Encoding = None,
    sheet: Sheet = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Leave comparison.html out.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print comparison.json.")] = False,
) -> None:
    """Compare reports with the truth, by the id of the case or the name of the photo: levels, choices, texts, confidence.

    Writes comparison.json, comparison.jsonl and comparison.html into OUT.
    """
    from vidrisk.cli.compare_view import print_comparison
    from vidrisk.data import load_cases, load_scheme
    from vidrisk.data.load_cases import DEFAULT_SCHEME
    from vidrisk.inference.neighbours import read_index
    from vidrisk.jobs.compare_reports import compare_run
    from vidrisk.jobs.join_reports import read_leads
    from vidrisk.jobs.similar_cases import SimilarCases
    from vidrisk.report import build_comparison
    from vidrisk.runtimes.contract.errors import SettingsError

    if cases and not classifier:
        raise SettingsError("--cases without --classifier", allowed="the run that has saved features of the photos", fix="add it")
    known = None if truth is None else load_cases(truth, scheme, photos=photos, encoding=encoding, sheet=sheet)
    if known is not None and split:
        known = known.of_split(split)
    written_by = known.scheme if known is not None else load_scheme(scheme or DEFAULT_SCHEME)
    comparison = compare_run(out, known, written_by, leads=read_leads(classifier, written_by) if classifier else None,
                             similar=SimilarCases(read_index(cases), classifier) if cases and classifier else None,
                             tables=() if truth is None else (truth,))
    page = out if no_page else build_comparison(out)
    print_comparison(comparison, page, as_json=json_output)
