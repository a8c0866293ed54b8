"""Tests of the conformal thresholds: they keep the guarantees of split conformal prediction.

The guarantees are checked in simulations and by exact comparisons.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrisk.calibration.conformal import (
    TIE,
    Fit,
    fit_thresholds,
    group_labels,
    own_samples,
    place_of_threshold,
    samples_for,
)
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.uncertainty import certain_rows, label_sets

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
coverages = st.floats(0.02, 0.98)


def drawn(
    rng: np.random.Generator,
    samples: int,
    classes: int = 3,
    sharpness: float = 2.0,
    shares: tuple[float, ...] | None = None,
) -> tuple[Floats, Ints]:
    """Return probabilities and the truth for a model that is often right and finds later classes harder."""
    truth = rng.choice(classes, samples, p=shares)
    logits = rng.normal(size=(samples, classes))
    logits[np.arange(samples), truth] += sharpness / (1 + 0.5 * truth)
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True), truth.astype(np.int64)


def names(classes: int) -> list[str]:
    return [f"class {i}" for i in range(classes)]


def thresholds_of(fit: Fit, classes: int) -> Floats:
    by_label = {label: group.threshold for group in fit.groups for label in group.labels}
    return np.array([by_label[label] for label in names(classes)])


def is_covered(probabilities: Floats, truth: Ints, thresholds: Floats) -> npt.NDArray[np.bool_]:
    covered: npt.NDArray[np.bool_] = label_sets(probabilities, thresholds)[np.arange(len(truth)), truth]
    return covered


@pytest.mark.parametrize(("samples", "coverage"), [(12, 0.9), (40, 0.9), (200, 0.9), (200, 0.7), (120, 0.98)])
def test_the_coverage_is_what_was_asked_on_average(samples: int, coverage: float) -> None:
    """The average coverage equals the requested one, also where classes have thresholds of their own.

    The least and the greatest possible average coverage differ by 1 / (n + 1).
    """
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        fit = fit_thresholds(*drawn(rng, samples), names(3), coverage)
        probabilities, truth = drawn(rng, 500)
        if fit.groups:
            found.append(is_covered(probabilities, truth, thresholds_of(fit, 3)).mean())
    mean, error = np.mean(found), np.std(found) / math.sqrt(len(found))
    assert len(found) > 390 and coverage - 3 * error <= mean <= coverage + 3 / (samples + 1) + 3 * error


def test_every_class_with_samples_of_its_own_is_covered() -> None:
    """Thresholds per class cover every class, also the hard, rare class that a marginal threshold fails."""
    rng = np.random.default_rng(1)
    shares = (0.7, 0.2, 0.1)
    own, marginal = [], []
    for _ in range(200):
        probabilities, truth = drawn(rng, 800, shares=shares)
        fit = fit_thresholds(probabilities, truth, names(3), 0.9)
        assert fit.is_per_class and [group.labels for group in fit.groups] == [("class 0",), ("class 1",), ("class 2",)]
        fresh, labels = drawn(rng, 2000, shares=shares)
        covered = is_covered(fresh, labels, thresholds_of(fit, 3))
        own.append([covered[labels == i].mean() for i in range(3)])
        scores = np.sort(probabilities[np.arange(800), truth])[::-1]
        alike = is_covered(fresh, labels, np.full(3, scores[place_of_threshold(800, 0.9) - 1]))
        marginal.append(alike[labels == 2].mean())
    assert np.allclose(np.mean(own, axis=0), 0.9, atol=0.02)
    assert np.mean(marginal) < 0.85


@pytest.mark.parametrize("shares", [None, (0.5, 0.3, 0.2)])
def test_the_interval_holds_the_true_coverage_nine_times_out_of_ten(shares: tuple[float, ...] | None) -> None:
    """The interval contains the true coverage in about nine of ten fits.

    This holds with one threshold for all classes (60 samples) and with one threshold per class (300 samples).
    """
    rng = np.random.default_rng(2)
    for samples in (60, 300):
        inside = []
        for _ in range(300):
            fit = fit_thresholds(*drawn(rng, samples, shares=shares), names(3), 0.9)
            assert fit.interval is not None and fit.is_per_class == (samples == 300)
            fresh, labels = drawn(rng, 20_000, shares=shares)
            inside.append(fit.interval[0] <= is_covered(fresh, labels, thresholds_of(fit, 3)).mean() <= fit.interval[1])
        assert 0.85 <= np.mean(inside) <= 0.95


def test_what_is_kept_is_judged_by_thresholds_fitted_without_it() -> None:
    """The share of kept samples and their accuracy equal those of a plain leave-one-out computation."""
    rng = np.random.default_rng(3)
    for samples, coverage in ((30, 0.9), (41, 0.8), (30, 0.5)):
        probabilities, truth = drawn(rng, samples)
        probabilities = probabilities.round(1)  # ties
        fit = fit_thresholds(probabilities, truth, names(3), coverage)
        kept = []
        for i in range(samples):
            others = np.arange(samples) != i
            by_label = np.empty(3)
            for group in fit.groups:
                members = [names(3).index(label) for label in group.labels]
                inside = others & np.isin(truth, members)
                scores = np.sort(probabilities[np.flatnonzero(inside), truth[inside]])[::-1]
                by_label[members] = max(0, scores[place_of_threshold(len(scores), coverage) - 1] - TIE)
            row = probabilities[i : i + 1]
            kept.append(bool(certain_rows(row, label_sets(row, by_label))[0]))
        right = (probabilities.argmax(1) == truth)[kept]
        assert fit.kept == pytest.approx(np.mean(kept)) and fit.kept_samples == sum(kept)
        assert fit.accuracy_of_kept == (pytest.approx(right.mean()) if kept else None)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 150), coverages)
def test_the_order_of_the_samples_does_not_matter(seed: int, samples: int, coverage: float) -> None:
    rng = np.random.default_rng(seed)
    probabilities, truth = drawn(rng, samples)
    order = rng.permutation(samples)
    one, other = (fit_thresholds(probabilities[i], truth[i], names(3), coverage) for i in (np.arange(samples), order))
    assert one.groups == other.groups and one.interval == other.interval and one.reason == other.reason
    assert (one.kept, one.kept_samples, one.accuracy_of_kept) == (
        other.kept,
        other.kept_samples,
        other.accuracy_of_kept,
    )


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(10, 200), coverages, coverages)
def test_a_higher_coverage_excludes_less(seed: int, samples: int, one: float, other: float) -> None:
    """A higher coverage excludes fewer labels, as long as the same labels share a threshold.

    The number of samples that a class needs depends on the coverage, so the groups of labels may differ.
    """
    probabilities, truth = drawn(np.random.default_rng(seed), samples)
    low, high = (fit_thresholds(probabilities, truth, names(3), each) for each in sorted((one, other)))
    if low.groups and [group.labels for group in low.groups] == [group.labels for group in high.groups]:
        assert (thresholds_of(high, 3) <= thresholds_of(low, 3)).all()
        assert (
            label_sets(probabilities, thresholds_of(high, 3)) | ~label_sets(probabilities, thresholds_of(low, 3))
        ).all()


@given(st.integers(1, 5000), st.floats(1e-9, 1 - 1e-6))
def test_the_place_of_the_threshold_is_the_corrected_quantile(samples: int, coverage: float) -> None:
    place = place_of_threshold(samples, coverage)
    assert place / (samples + 1) >= coverage - 1e-9
    assert place == 1 or (place - 1) / (samples + 1) < coverage
    assert (place <= samples) == (samples >= samples_for(1, coverage))


def test_how_many_samples_a_class_needs() -> None:
    assert [own_samples(coverage) for coverage in (0.8, 0.9, 0.95, 0.99)] == [24, 49, 99, 499]
    assert [samples_for(1, coverage) for coverage in (0.5, 0.8, 0.9, 0.95, 0.99)] == [1, 4, 9, 19, 99]


@given(st.lists(st.integers(0, 100), min_size=2, max_size=9), st.integers(1, 60))
def test_labels_are_shared_out_so_that_every_group_has_enough(counts: list[int], least: int) -> None:
    groups = group_labels(counts, least)
    assert sorted(label for group in groups for label in group) == list(range(len(counts)))
    sizes = [sum(counts[label] for label in group) for group in groups]
    assert len(groups) == 1 or min(sizes) >= least
    alone = [group[0] for group in groups if len(group) == 1]
    shared = [label for group in groups if len(group) > 1 for label in group]
    assert not shared or not alone or max(counts[label] for label in shared) <= min(counts[label] for label in alone)


def test_classes_without_samples_share_the_threshold_of_the_next_larger_one() -> None:
    assert group_labels([0, 80, 60, 0], 49) == [[0, 2, 3], [1]]
    probabilities, truth = drawn(np.random.default_rng(4), 200, classes=4, shares=(0.0, 0.5, 0.5, 0.0))
    fit = fit_thresholds(probabilities, truth, names(4), 0.9)
    assert {len(group.labels) for group in fit.groups} == {1, 3} and not fit.reason


@pytest.mark.parametrize(
    ("samples", "coverage", "reason"),
    [
        (5, 0.9, "5 validation samples; a coverage of 90 % needs at least 10"),
        (9, 0.9, "9 validation samples; a coverage of 90 % needs at least 10"),
        (0, 0.9, "0 validation samples; a coverage of 90 % needs at least 10"),
        (60, 0.995, "60 validation samples; a coverage of 99.5 % needs at least 200"),
    ],
)
def test_too_few_samples_give_no_threshold_and_the_reason(samples: int, coverage: float, reason: str) -> None:
    probabilities, truth = drawn(np.random.default_rng(5), samples)
    fit = fit_thresholds(probabilities, truth, names(3), coverage)
    assert (fit.groups, fit.interval, fit.kept, fit.accuracy_of_kept, fit.reason) == ((), None, None, None, reason)
    assert (fit.accuracy is None) == (samples == 0)


def test_samples_of_one_class_give_no_threshold() -> None:
    probabilities, _ = drawn(np.random.default_rng(6), 40)
    fit = fit_thresholds(probabilities, np.full(40, 2), names(3), 0.9)
    assert not fit.groups and fit.reason == "all 40 validation samples are of one class"


def test_samples_without_finite_probabilities_say_nothing() -> None:
    probabilities, truth = drawn(np.random.default_rng(7), 80)
    broken = np.concatenate([probabilities, np.full((4, 3), np.nan)])
    broken[-1] = (np.inf, 0, 0)
    assert fit_thresholds(broken, np.concatenate([truth, [0, 1, 2, 0]]), names(3), 0.9) == fit_thresholds(
        probabilities, truth, names(3), 0.9
    )
    nothing = fit_thresholds(np.full((30, 3), np.nan), np.arange(30) % 3, names(3), 0.9)
    assert nothing.reason.startswith("0 validation samples") and nothing.accuracy is None


def test_probabilities_of_0_and_1_and_ties() -> None:
    """A model that is always sure and right keeps every sample; one that is always wrong excludes no label."""
    truth = np.arange(40) % 2
    right = fit_thresholds(np.eye(2)[truth], truth, names(2), 0.9)
    assert (right.kept, right.accuracy_of_kept, thresholds_of(right, 2).tolist()) == (1, 1, [1 - TIE] * 2)
    wrong = fit_thresholds(np.eye(2)[1 - truth], truth, names(2), 0.9)
    assert (wrong.kept, wrong.accuracy_of_kept, thresholds_of(wrong, 2).tolist()) == (0, None, [0, 0])
    even = fit_thresholds(np.full((40, 2), 0.5), truth, names(2), 0.9)
    assert even.kept == 0 and thresholds_of(even, 2).tolist() == [0.5 - TIE] * 2


def test_a_model_that_is_right_more_often_than_asked_is_uncertain_of_about_the_rest() -> None:
    fit = fit_thresholds(*drawn(np.random.default_rng(9), 600, sharpness=12.0), names(3), 0.9)
    assert fit.accuracy is not None and fit.accuracy > 0.97 and fit.accuracy_of_kept == 1
    assert fit.kept == pytest.approx(0.9, abs=0.01)


def test_a_tie_at_the_threshold_does_not_depend_on_the_engine() -> None:
    truth = np.arange(60) % 2
    probabilities = np.where(np.eye(2)[truth] == 1, 0.8, 0.2)
    fit = fit_thresholds(probabilities, truth, names(2), 0.9)
    elsewhere = np.array([[0.8 - 4e-7, 0.2 + 4e-7]])
    assert certain_rows(elsewhere, label_sets(elsewhere, thresholds_of(fit, 2))).all()


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.1, 90.0, math.nan, math.inf])
def test_a_coverage_that_no_threshold_can_have(coverage: float) -> None:
    probabilities, truth = drawn(np.random.default_rng(8), 30)
    with pytest.raises(SettingsError, match=r"a coverage of .*; allowed: above 0 and under 1, such as 0\.9"):
        fit_thresholds(probabilities, truth, names(3), coverage)
