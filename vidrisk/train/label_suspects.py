"""Search for wrong labels, by the predictions of probes that were not trained on the sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from vidrisk.data import Sample, Table
from vidrisk.data.split import deal_folds
from vidrisk.metrics.label_errors import find_label_errors
from vidrisk.metrics.target_report import labelled_rows
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.train.probe import Floats, Ints, probabilities_out_of_fold
from vidrisk.train.summaries import Summaries

FOLDS = 5


@dataclass(frozen=True)
class Suspect:
    """A label that may be wrong.

    Attributes:
        target: target of the label.
        given, likely: the label, and the more probable one; for a multi-label target also ``not LABEL``.
        margin: probability of the given label minus that of the likely one, -1 to 1; the lower, the more suspect.
        is_suspected: whether confident learning counts the label as wrong.
    """

    sample: Sample
    target: str
    given: str
    likely: str
    margin: float
    is_suspected: bool

    def to_row(self) -> dict[str, str]:
        """Return the cells of a table for manual review."""
        interval = str(self.sample.interval) if self.sample.interval else ""
        return {
            "path": self.sample.name,
            "interval": interval,
            "target": self.target,
            "given": self.given,
            "likely": self.likely,
            "margin": f"{self.margin:.4f}",
            "suspected": "yes" if self.is_suspected else "no",
        }


@dataclass(frozen=True)
class Suspects:
    """All labels of a table, the most suspect first.

    Attributes:
        share: estimated share of wrong labels, by target, 0–1.
        accuracy: accuracy of the probes, by target; the suspicions are no more reliable than that.
    """

    ranked: tuple[Suspect, ...]
    share: Mapping[str, float]
    accuracy: Mapping[str, float]


def find_suspects(summaries: Summaries, *, folds: int = FOLDS, seed: int = 0) -> Suspects:
    """Compare every label with an out-of-fold prediction; groups stay in one fold.

    Raises:
        DataError: fewer groups or files than folds, or the other folds lack a label of a fold.
    """
    found: list[Suspect] = []
    share, accuracy = {}, {}
    for target in summaries.contract.targets:
        truth = summaries.truth[target.name]
        rows = np.flatnonzero(labelled_rows(truth))
        table = summaries.table.with_samples(summaries.table.samples[row] for row in rows)
        numbers = deal_folds(table, min(folds, len(rows)), seed=seed)
        if len(set(numbers)) < 2:
            raise DataError(f"{len(rows)} samples are labelled for {target.name}", allowed="two or more")
        sure, _ = probabilities_out_of_fold(summaries.features[rows], truth[rows], target, numbers)
        for name, of_label, (given, probabilities) in _questions(target, truth[rows], sure):
            errors = find_label_errors(given, probabilities)
            share[name], accuracy[name] = errors.share, float((probabilities.argmax(axis=1) == given).mean())
            found += [
                Suspect(
                    table.samples[row],
                    target.name,
                    of_label[given[row]],
                    of_label[errors.likely[row]],
                    float(errors.margin[row]),
                    bool(errors.suspected[row]),
                )
                for row in errors.order
            ]
    return Suspects(tuple(sorted(found, key=lambda suspect: suspect.margin)), share, accuracy)


def _questions(target: Target, truth: Ints, sure: Floats) -> Iterator[tuple[str, tuple[str, ...], tuple[Ints, Floats]]]:
    """Yield each question about a target with its answers.

    That is the name of the question, the names of its answers, and the truth and the probabilities of the answers. A
    multi-label target has one yes-no question per label.
    """
    if not target.multi_label:
        yield target.name, target.labels, (truth, sure)
        return
    for number, label in enumerate(target.labels):
        yes = sure[:, number]
        yield f"{target.name} {label}", (f"not {label}", label), (truth[:, number], np.stack([1 - yes, yes], axis=1))


def table_of_suspects(suspects: Suspects, table: Table, most: int) -> Table:
    """Return the samples of the most suspect labels in their order, each sample once."""
    chosen: dict[tuple[object, ...], Sample] = {}
    for suspect in suspects.ranked:
        if len(chosen) < most:
            chosen.setdefault(suspect.sample.order, suspect.sample)
    return table.with_samples(chosen.values())
