"""The tables that ``vidrisk compare`` prints."""

from __future__ import annotations

from pathlib import Path

from vidrisk.cli.console import say, say_json, say_table
from vidrisk.cli.views import describe_splits
from vidrisk.jobs.compare_models import ModelComparison
from vidrisk.jobs.compare_reports import ReportComparison, Unpaired
from vidrisk.jobs.compare_scores import Share

_MEASURES = {"top1": "right answers", "macro_f1": "macro-F1", "mean_average_precision": "mAP"}


def print_comparison(comparison: ReportComparison, page: Path, *, as_json: bool) -> None:
    """Print the scores; ``page`` is the file or folder to open next."""
    if as_json:
        say_json(comparison.to_json())
        return
    scores = comparison.scores
    named = [
        *scores.levels.items(),
        *(() if scores.lead is None else (("level of the classifier", scores.lead),)),
        *scores.choices.items(),
    ]
    if named:
        say_table(
            ("field", "reports", "right (95 %)", "macro-F1", "kappa", "distance", "missing"),
            (
                (
                    name,
                    str(one.n),
                    f"{one.accuracy:.1%} ({one.interval[0]:.1%} … {one.interval[1]:.1%})",
                    f"{one.macro_f1:.3f}",
                    _number(one.quadratic_kappa),
                    _number(one.mean_distance),
                    str(one.missing),
                )
                for name, one in named
            ),
            right_from=1,
        )
    if scores.texts:
        say_table(
            ("text", "reports", "ROUGE-L", "chrF", "equal", "length", "missing"),
            (
                (
                    name,
                    str(one.n),
                    f"{one.rouge_l:.3f}",
                    f"{one.chrf:.3f}",
                    f"{one.exact:.1%}",
                    f"{one.length_ratio:.2f} ×",
                    str(one.missing),
                )
                for name, one in scores.texts.items()
            ),
            right_from=1,
        )
    ece = "" if scores.ece is None else f"; calibration error of the level {scores.ece:.3f}"
    say(f"{scores.reports:,} reports: {_share(scores.parsed)} parsed; {_share(scores.abstained)} uncertain{ece}")
    if scores.agreement:
        say(
            f"the classifier agrees with {_share(scores.agreement)} levels; "
            f"it has not seen {comparison.unseen:,} photos"
        )
    _say_unpaired("reports without a truth", comparison.unpaired_reports)
    _say_unpaired("cases without a report", comparison.unpaired_cases)
    for note in comparison.notes:
        say(note)
    say(f"→ {page}")


def print_models(comparison: ModelComparison, *, as_json: bool) -> None:
    """Print which of two models is better, figure by figure."""
    if as_json:
        say_json(comparison.to_json())
        return
    say(f"A  {comparison.names[0]}")
    say(f"B  {comparison.names[1]}")
    say(describe_splits(comparison.samples, comparison.splits))
    for target, figures in comparison.figures.items():
        say_table(
            (target, "A", "B", "gain in points (95 %)", "p", "B is"),
            (
                (
                    _MEASURES[each.measure],
                    f"{each.first:.1%}",
                    f"{each.second:.1%}",
                    f"{100 * (each.second - each.first):+.1f} "
                    f"({each.interval_points[0]:+.1f} … {each.interval_points[1]:+.1f})",
                    f"{each.p_value:.3f}",
                    each.verdict,
                )
                for each in figures
            ),
            right_from=1,
        )
        right = figures[0]
        basis = f"{right.samples} samples" + (f" in {right.groups} groups" if right.groups else "")
        if right.verdict != "undecided":
            say(f"{target}: B is {right.verdict}, by {basis}")
        elif right.samples_to_decide is None:
            say(f"{target}: undecided by {basis}: both are right equally often, so more samples would not help")
        else:
            say(
                f"{target}: undecided by {basis}; about {right.samples_to_decide:,} samples would decide such a "
                "difference, four times out of five"
            )
    if comparison.unreadable:
        say(f"{comparison.unreadable:,} samples were left out: one of the models could not score them")
    for note in comparison.data_notes:
        say(note)


def _say_unpaired(what: str, unpaired: Unpaired) -> None:
    if unpaired.total:
        first = ", ".join(name for name, _ in unpaired.named[:3])
        say(f"{unpaired.total:,} {what}: {first}{', …' if unpaired.total > 3 else ''}")


def _share(share: Share | None) -> str:
    return "–" if share is None else f"{share.count:,} of {share.of:,} ({share.share:.1%})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
