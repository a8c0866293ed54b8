"""``vidrisk data suspects`` and ``vidrisk data curve``: probably wrong labels, and whether enough is labelled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidrisk.cli.tables import Encoding, MultiLabel, Sheet, Strict
from vidrisk.runtimes.contract.choices import LabelTask

if TYPE_CHECKING:
    from vidrisk.metrics.learning_curve import LearningCurve
    from vidrisk.train.summaries import Summaries

Data = Annotated[Path, typer.Argument(metavar="DATA", help="Labelled data, as for train.")]
TaskOption = Annotated[
    LabelTask, typer.Option("--task", help="What the labels are about: action, risk, or action+risk.")
]
Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="NAME",
        show_default="efficientnet-lite0",
        help="Encoder that computes the features; it is not trained.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A training setting that affects the features, such as frames=16 or head.kind=motion.",
    ),
]
GroupBy = Annotated[
    str | None,
    typer.Option(
        "--group-by",
        help="Keep together what shares this column, or a regular expression's group in the name: 'seq([0-9]+)'.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def suspects(
    data: Data,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="CSV", help="Table to write: all labels, the most suspect first.")
    ],
    gallery: Annotated[
        Path | None,
        typer.Option("--gallery", metavar="PNG", help="Picture of the most suspect samples, with both labels."),
    ] = None,
    most: Annotated[int, typer.Option(min=1, max=100, help="Samples in the gallery.")] = 40,
    task: TaskOption = "action",
    multi_label: MultiLabel = False,
    backbone: Backbone = None,
    settings: Settings = None,
    group_by: GroupBy = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other folds.")] = 0,
    strict: Strict = False,
    encoding: Encoding = None,
    sheet: Sheet = None,
    json_output: Json = False,
) -> None:
    """Rank the labels of DATA by how likely they are wrong (confident learning on out-of-fold probabilities)."""
    import json

    from vidrisk.cli.console import progress_bar, say, say_json, say_table
    from vidrisk.data.io import check_new_file, write_rows
    from vidrisk.data.sheet import check_sheet, draw_captioned_sheet
    from vidrisk.train.label_suspects import find_suspects

    check_new_file(output, (".csv",))
    if gallery is not None:
        check_sheet(gallery, most)
    with progress_bar() as advance:
        summaries = _summaries(data, task, multi_label, backbone, settings, group_by, strict, encoding, sheet, advance)
        found = find_suspects(summaries, seed=seed)
    write_rows([suspect.to_row() for suspect in found.ranked], output)
    if gallery is not None:
        shown = found.ranked[:most]
        draw_captioned_sheet(
            [(suspect.sample, f"{suspect.given}, more like {suspect.likely}") for suspect in shown], gallery
        )
    if json_output:
        named = [suspect.to_row() for suspect in found.ranked if suspect.is_suspected]
        say_json(
            json.dumps(
                {
                    "output": str(output),
                    "labels": len(found.ranked),
                    "suspected_share": dict(found.share),
                    "accuracy_of_probes": dict(found.accuracy),
                    "suspects": named,
                },
                ensure_ascii=False,
            )
        )
        return
    say_table(
        ("sample", "label", "more like", "margin"),
        (
            (suspect.sample.title, suspect.given, suspect.likely, f"{suspect.margin:+.2f}")
            for suspect in found.ranked[:20]
        ),
        title=f"the most suspect of {len(found.ranked)} labels",
        right_from=3,
    )
    for target, share in found.share.items():
        say(
            f"{target}: {share:.1%} of the labels are suspected; out-of-fold probes agree with "
            f"{found.accuracy[target]:.1%}"
        )
    say(f"→ {output}")


def curve(
    data: Data,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="JSON", help="File to write; a plot goes beside it.")
    ] = None,
    task: TaskOption = "action",
    multi_label: MultiLabel = False,
    backbone: Backbone = None,
    settings: Settings = None,
    group_by: GroupBy = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other folds.")] = 0,
    strict: Strict = False,
    encoding: Encoding = None,
    sheet: Sheet = None,
    json_output: Json = False,
) -> None:
    """Estimate whether enough is labelled: accuracy on growing shares of DATA, and a forecast for twice as much."""
    import json
    from dataclasses import asdict

    from vidrisk.cli.console import progress_bar, say, say_json, say_table
    from vidrisk.data.io import check_new_file, write_new_file
    from vidrisk.runtimes.contract.errors import is_installed
    from vidrisk.train.data_curve import measure_curve

    if output is not None:
        check_new_file(output, (".json",))
    with progress_bar() as advance:
        summaries = _summaries(data, task, multi_label, backbone, settings, group_by, strict, encoding, sheet, advance)
        curves = {
            target.name: measure_curve(summaries, target, advance, seed=seed) for target in summaries.contract.targets
        }
    told = json.dumps(
        {target: {**asdict(each), "is_saturated": each.is_saturated} for target, each in curves.items()}, indent=2
    )
    if output is not None:
        write_new_file(output, told.encode() + b"\n")
        if is_installed("matplotlib"):
            from vidrisk.metrics.plots import plot_learning_curve

            for target, each in curves.items():
                plot_learning_curve(output.with_name(f"{output.stem}-{target}.png"), each, target)
    if json_output:
        say_json(told)
        return
    for target, each in curves.items():
        say_table(
            ("training samples", "score", "repeats"),
            ((str(size), f"{sum(scores) / len(scores):.1%}", str(len(scores))) for size, scores in each.scores.items()),
            title=target,
            right_from=0,
        )
        say(_forecast(each))


def _forecast(curve: LearningCurve) -> str:
    ahead, now = curve.forecast, curve.scores[max(curve.scores)]
    low, high = ahead.interval
    advice = "more of the same will bring little" if curve.is_saturated else "more data will help"
    return (
        f"with {ahead.samples} samples, twice as many, {ahead.score:.1%} ({low:.1%} … {high:.1%}, 90 %) after "
        f"{sum(now) / len(now):.1%}: {advice}"
    )


def _summaries(
    data: Path,
    task: LabelTask,
    multi_label: bool,
    backbone: str | None,
    settings: list[str] | None,
    group_by: str | None,
    strict: bool,
    encoding: str | None,
    sheet: str | None,
    advance: object,
) -> Summaries:
    from vidrisk.data import load_table
    from vidrisk.data.split import group_table
    from vidrisk.models.config import config_from_options
    from vidrisk.train.summaries import summarise_table

    table = load_table(data, task, multi_label=multi_label, encoding=encoding, sheet=sheet, strict=strict)
    config = config_from_options(None, settings or (), task=task, backbone=backbone)
    return summarise_table(group_table(table, group_by), config, advance)  # type: ignore[arg-type]
