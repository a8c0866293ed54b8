"""Confidence of a level: its temperature, and the thresholds for abstaining, fitted to validation samples.

The probability of a level is the softmax over all levels of the log-probabilities with which the model would write them
(``Comparison``), divided by the temperature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from vidrisk.calibration.conformal import Fit, fit_thresholds
from vidrisk.calibration.temperature import fit_temperature, match_temperature
from vidrisk.export.text.field_figures import Answers
from vidrisk.export.text.samples import GateSample, ReportForm
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits

ByTarget = dict[str, dict[str, float]]  # by variant and target


def fit_temperatures(answers: Mapping[str, Answers], samples: Sequence[GateSample], form: ReportForm) -> ByTarget:
    """Fit the temperature of the level, by variant and target.

    That of the first variant makes the true levels most likely; those of the others bring their probabilities nearest
    to the first one's.

    Args:
        answers: by variant, floating point first.
        samples: with their true levels.
        form: of the answers.
    """
    (first, exact), *others = answers.items()
    truth, known = true_levels(samples, form)
    temperature = fit_temperature(exact.scores[known], truth)
    sure = probabilities_from_logits(exact.scores, temperature)
    found = {first: temperature, **{name: match_temperature(each.scores, sure) for name, each in others}}
    return {name: {form.level: value} for name, value in found.items()}


def fit_level_thresholds(
    answers: Mapping[str, Answers],
    temperature: Mapping[str, Mapping[str, float]],
    samples: Sequence[GateSample],
    form: ReportForm,
    coverage: float,
) -> dict[str, dict[str, Fit]]:
    """Fit the thresholds of the level, by variant and target.

    Raises:
        SettingsError: the coverage is not above 0 and below 1.
    """
    truth, known = true_levels(samples, form)
    return {
        name: {
            form.level: fit_thresholds(
                probabilities_from_logits(each.scores[known], temperature[name][form.level]),
                truth,
                form.levels,
                coverage,
            )
        }
        for name, each in answers.items()
    }


def true_levels(samples: Sequence[GateSample], form: ReportForm) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the indices of the true levels, and the positions of the samples whose level is known."""
    known = [number for number, sample in enumerate(samples) if sample.truth.get(form.level) in form.levels]
    truth = [form.levels.index(samples[number].truth[form.level]) for number in known]
    return np.array(truth, np.int64), np.array(known, np.int64)
