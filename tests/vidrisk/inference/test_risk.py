from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.inference.risk import guidance_for, severity_from_probabilities
from vidrisk.runtimes.contract.contract import Guidance, Target

DEFECT = Target(name="defect", labels=("crack", "leak"))
LEVEL = Target(name="level", labels=("minor", "moderate", "severe"), ordered=True, severity=(0, 40, 100))


def test_severity_is_the_expectation_over_the_levels() -> None:
    probabilities = {"defect": np.array([0.5, 0.5], np.float32), "level": np.array([0.25, 0.5, 0.25], np.float32)}
    assert severity_from_probabilities((DEFECT, LEVEL), probabilities) == pytest.approx(45.0)


def test_without_severities_there_is_none() -> None:
    assert severity_from_probabilities((DEFECT,), {"defect": np.array([0.9, 0.1], np.float32)}) is None


def test_a_defect_may_have_a_severity_but_the_level_goes_first() -> None:
    rated = Target(name="defect", labels=("crack", "leak"), severity=(10, 90))
    probabilities = {"defect": np.array([1, 0], np.float32), "level": np.array([0, 0, 1], np.float32)}
    assert severity_from_probabilities((rated,), probabilities) == pytest.approx(10.0)
    assert severity_from_probabilities((rated, LEVEL), probabilities) == pytest.approx(100.0)


@given(st.lists(st.floats(0.001, 1), min_size=3, max_size=3))
def test_severity_stays_on_its_scale(weights: list[float]) -> None:
    probabilities = (np.asarray(weights) / np.sum(weights)).astype(np.float32)
    severity = severity_from_probabilities((LEVEL,), {"level": probabilities})
    assert severity is not None and 0.0 <= severity <= 100.0


GUIDANCE = (
    Guidance(defect="crack", level="severe", advice="both"),
    Guidance(level="severe", advice="level"),
    Guidance(defect="crack", advice="defect"),
    Guidance(advice="nothing in particular"),
)


@pytest.mark.parametrize(
    ("defect", "level", "advice"),
    [
        ("crack", "severe", "both"),
        ("leak", "severe", "level"),
        ("crack", "minor", "defect"),
        ("leak", "minor", ""),
        (None, "severe", "level"),
        (None, None, ""),
    ],
)
def test_the_most_specific_guidance_wins(defect: str | None, level: str | None, advice: str) -> None:
    assert guidance_for(GUIDANCE, defect=defect, level=level).advice == advice


def test_level_goes_before_defect() -> None:
    assert guidance_for(GUIDANCE[1:3], defect="crack", level="severe").advice == "level"
