"""The errors that a model makes with most confidence, with the data to show them on a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.data import Sample
from vidrisk.metrics.classification import worst_errors
from vidrisk.metrics.multi_label import worst_labels
from vidrisk.runtimes.contract.contract import Target

WORST = 50  # of each target


@dataclass(frozen=True)
class Shown:
    """Where to see a sample.

    Attributes:
        span_s: begin and end of the part that was answered, on the clip's timeline; None for a photo.
    """

    path: str
    title: str
    span_s: tuple[float, float] | None


@dataclass(frozen=True)
class WorstError:
    """One error: the sample, and the error in the form of ``worst_errors`` of an evaluation."""

    shown: Shown
    told: dict[str, Any]

    @classmethod
    def of(cls, sample: Sample, told: dict[str, Any], span_s: tuple[float, float] | None) -> WorstError:
        """Make an error with the sample's name and location."""
        return cls(Shown(str(sample.path), sample.title, span_s), {**sample.identity, **told})


def find_worst(
    target: Target, truth: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the row of each error, and what is wrong.

    For a multi-label target an error concerns one label, which holds or does not.
    """
    if target.multi_label:
        for sample, label in worst_labels(truth, scores, WORST):
            yield (
                sample,
                {
                    "label": target.labels[label],
                    "holds": bool(truth[sample, label]),
                    "score": round(float(scores[sample, label]), 6),
                },
            )
        return
    for sample in worst_errors(truth, scores, WORST):
        yield (
            sample,
            {
                "true": target.labels[truth[sample]],
                "predicted": target.labels[scores[sample].argmax()],
                "score": round(float(scores[sample].max()), 6),
            },
        )
