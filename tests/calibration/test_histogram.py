"""Tests of the streamed histogram and its ranges.

A stream gives the same histogram as all values at once. The ranges equal those of a reference that keeps
every value.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vidrisk.calibration.histogram import (
    BINS,
    CANDIDATES,
    PERCENTILE,
    SMALLEST_SHRINK,
    Histogram,
    Method,
    range_from_histogram,
)

METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy", "mse")
SIZE = 60_000


def made(*batches: np.ndarray) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.observe(batch)
    return histogram


def state(histogram: Histogram) -> tuple[object, ...]:
    return (
        histogram.counts.tolist(),
        histogram.first,
        histogram.exponent,
        histogram.low,
        histogram.high,
        histogram.zeros,
    )


def samples() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=SIZE)
    tails = np.where(rng.random(SIZE) < 1e-4, 60 * normal, normal)
    return {
        name: values.astype(np.float32)
        for name, values in {
            "normal": normal,
            "laplace": rng.laplace(size=SIZE) + 0.3,
            "relu": np.maximum(normal, 0),
            "relu6": np.clip(4 * normal, 0, 6),
            "silu": 3 * normal / (1 + np.exp(-3 * normal)),
            "tails": tails,
            "tail above": np.where(tails < -5, 0, tails),
            "relu tail": np.maximum(tails, 0),
            "uniform": rng.uniform(-1, 2, size=SIZE),
            "negative": -rng.lognormal(size=SIZE),
            "far from zero": rng.uniform(1000, 1001, size=SIZE),
        }.items()
    }


SAMPLES = samples()
each_sample = pytest.mark.parametrize("name", SAMPLES)
each_grid = pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])

floats = st.floats(allow_nan=False, allow_infinity=False, width=32)
# Any float32 at all, denormals included, and plain ones that share bins.
arrays = hnp.arrays(np.float32, st.integers(1, 40), elements=floats | st.integers(-9, 9).map(float))


# The histogram


@settings(max_examples=150, deadline=None)
@given(values=arrays, data=st.data())
def test_a_stream_gives_the_histogram_of_everything_at_once(values: np.ndarray, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(values))))
    cuts = data.draw(st.sets(st.integers(0, len(values)), max_size=6))
    assert state(made(*np.split(values[order], sorted(cuts)))) == state(made(values))


@settings(max_examples=150, deadline=None)
@given(values=arrays)
def test_bins_hold_what_exact_arithmetic_puts_there(values: np.ndarray) -> None:
    histogram = made(values)
    width = Fraction(2) ** histogram.exponent
    bins = [math.floor(Fraction(float(value)) / width) for value in values]
    assert histogram.first == min(bins)
    assert histogram.counts.tolist() == [bins.count(histogram.first + i) for i in range(max(bins) - min(bins) + 1)]
    assert (histogram.low, histogram.high) == (values.min(), values.max())
    assert histogram.zeros == (values == 0).sum()
    assert histogram.count == len(values)


@settings(max_examples=150, deadline=None)
@given(values=arrays)
def test_the_width_is_the_smallest_that_fits(values: np.ndarray) -> None:
    histogram = made(values)
    assert len(histogram.counts) <= BINS
    half = Fraction(2) ** (histogram.exponent - 1)
    needed = math.floor(Fraction(histogram.high) / half) - math.floor(Fraction(histogram.low) / half) + 1
    spacing = 2.0 ** max(math.frexp(np.abs(values).max())[1] - 24, -149) if values.any() else 2.0**-149  # of float32
    assert needed > BINS or histogram.width == spacing


def test_long_arrays_of_any_shape_are_counted_in_pieces() -> None:
    values = np.random.default_rng(1).normal(size=(3, 5, 100, 101)).astype(np.float32)
    histogram = made(values, values[:, ::2])
    everything = np.concatenate([values.ravel(), values[:, ::2].ravel()])
    edges = (histogram.first + np.arange(len(histogram.counts) + 1)) * histogram.width
    assert histogram.counts.tolist() == np.histogram(everything, edges)[0].tolist()


def test_an_empty_array_changes_nothing() -> None:
    assert state(made(np.zeros((0, 4), np.float32))) == state(Histogram())


# Ranges


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 1e-42, -3.5, 1e30])
@each_grid
def test_a_constant_has_a_range_of_no_width(method: Method, value: float, symmetric: bool) -> None:
    values = np.full(100, value, np.float32)
    assert range_from_histogram(made(values), method, symmetric=symmetric) == (values[0], values[0])


@settings(max_examples=60, deadline=None)
@given(values=arrays, method=st.sampled_from(METHODS), symmetric=st.booleans())
def test_ranges_lie_inside_the_data_and_hold_zero_where_it_does(
    values: np.ndarray, method: Method, symmetric: bool
) -> None:
    histogram = made(values)
    before = state(histogram)
    low, high = range_from_histogram(histogram, method, symmetric=symmetric)
    assert values.min() <= low <= high <= values.max()
    if values.min() <= 0 <= values.max():
        assert low <= 0 <= high
    if method == "minmax":
        assert (low, high) == (values.min(), values.max())
    assert state(histogram) == before


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(sorted(SAMPLES)),
    method=st.sampled_from(METHODS),
    symmetric=st.booleans(),
    power=st.integers(-40, 40),
)
def test_ranges_scale_with_the_data(name: str, method: Method, symmetric: bool, power: int) -> None:
    plain = range_from_histogram(made(SAMPLES[name]), method, symmetric=symmetric)
    scaled = range_from_histogram(made(np.ldexp(SAMPLES[name], power)), method, symmetric=symmetric)
    assert scaled == pytest.approx(np.ldexp(plain, power), rel=1e-12)


@each_sample
def test_percentile_is_the_quantile_to_one_bin(name: str) -> None:
    values, histogram = SAMPLES[name], made(SAMPLES[name])
    outside = 1 - PERCENTILE / 100
    low, high = range_from_histogram(histogram, "percentile", symmetric=False)
    if values.min() < 0:
        assert low == pytest.approx(np.quantile(values, outside / 2, method="inverted_cdf"), abs=histogram.width)
    if values.max() > 0:
        assert high == pytest.approx(np.quantile(values, 1 - outside / 2, method="inverted_cdf"), abs=histogram.width)
    low, high = range_from_histogram(histogram, "percentile", symmetric=True)
    expected = np.quantile(np.abs(values), 1 - outside, method="inverted_cdf")
    if name != "far from zero":  # where 8 bits from zero on hold everything in one step
        assert max(-low, high) == pytest.approx(expected, abs=histogram.width)


def mean_error(values: np.ndarray, low: float, high: float, symmetric: bool) -> float:
    """Return the mean squared error that quantization to a range causes in the values themselves."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(-low, high) / 127 if symmetric else (high - low) / 255
    zero, least, most = (0, -127, 127) if symmetric else (round(-low / scale), 0, 255)
    integers = np.clip(np.rint(values.astype(np.float64) / scale) + zero, least, most)
    return float(np.mean(((integers - zero) * scale - values) ** 2))


@each_sample
@each_grid
def test_mse_is_within_two_percent_of_the_best_on_the_values_themselves(name: str, symmetric: bool) -> None:
    values = SAMPLES[name]
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    parts = np.geomspace(1, SMALLEST_SHRINK, CANDIDATES)
    # Every shrink of both ends together; and where there are two, pairs of shrinks, a third as fine.
    pairs = [(part, part) for part in parts]
    if low < 0 < high and not symmetric:
        pairs += [(a, b) for a in parts[:50:3] for b in parts[:50:3]]
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    best = min(mean_error(values[:20_000], a * low, b * high, symmetric) for a, b in pairs)
    ours = range_from_histogram(made(values[:20_000]), "mse", symmetric=symmetric)
    assert mean_error(values[:20_000], *ours, symmetric) <= 1.02 * best


def reference_divergence(values: np.ndarray, edges: np.ndarray, levels: int) -> float:
    """Return the divergence of TensorRT's calibrator, computed value by value from its description.

    The description is slide 38 of "8-bit inference with TensorRT".
    """
    inside = [0] * (len(edges) - 1)
    clipped = [0] * (len(edges) - 1)
    for value in values:
        bin_ = int(np.searchsorted(edges, value, side="right")) - 1
        if 0 <= bin_ < len(inside):
            inside[bin_] += 1
        clipped[min(max(bin_, 0), len(inside) - 1)] += 1
    divergence = 0.0
    for level in range(levels):
        bins = range(level * len(inside) // levels, (level + 1) * len(inside) // levels)
        used = [b for b in bins if clipped[b]]
        for b in used:
            mass = sum(inside[c] for c in bins) / len(used)
            if not mass:
                return math.inf
            p, q = clipped[b] / len(values), mass / sum(inside)
            divergence += p * math.log(p / q)
    return divergence


@pytest.mark.parametrize("name", ["normal", "relu", "tails", "tail above", "negative"])
@each_grid
def test_entropy_chooses_as_a_reference_that_keeps_every_value(name: str, symmetric: bool) -> None:
    values = SAMPLES[name][:4000]
    histogram = made(values)
    low, high = range_from_histogram(histogram, "entropy", symmetric=symmetric)
    kept = values[values != 0]
    down, up = (
        math.ceil(max(-values.min(), 0) / histogram.width),
        math.floor(max(values.max(), 0) / histogram.width) + 1,
    )
    levels = 256
    if symmetric:
        kept, down, up, levels = np.abs(kept), 0, max(down, up), 128
    parts = np.linspace(1, levels / (down + up), CANDIDATES)[::8]
    candidates = {(math.ceil(part * down), math.ceil(part * up)) for part in parts}
    width = histogram.width
    if symmetric:
        chosen = (0, min(math.ceil(max(-low, high) / width), up))
    else:
        chosen = (math.ceil(-low / width), up if high == values.max() else round(high / width))

    def divergence(down: int, up: int) -> float:
        return reference_divergence(kept, np.arange(-down, up + 1) * width, levels)

    assert divergence(*chosen) <= min(divergence(*bounds) for bounds in candidates) + 1e-9


@pytest.mark.parametrize("method", ["percentile", "mse"])
@each_grid
def test_heavy_tails_are_clipped_and_plain_data_is_not(method: Method, symmetric: bool) -> None:
    rng = np.random.default_rng(2)
    heavy = (rng.lognormal(size=SIZE) * rng.choice([-1, 1], SIZE)).astype(np.float32)
    low, high = range_from_histogram(made(heavy), method, symmetric=symmetric)
    assert max(-low, high) < 0.9 * np.abs(heavy).max()
    low, high = range_from_histogram(made(SAMPLES["uniform"]), method, symmetric=symmetric)
    assert (low, high) == pytest.approx((-1, 2), abs=1e-3)


def test_mse_clips_one_end_alone() -> None:
    rng = np.random.default_rng(2)
    heavy = rng.lognormal(size=SIZE) * rng.choice([-1, 1], SIZE)
    values = (heavy / (1 + np.exp(-heavy))).astype(np.float32)
    low, high = range_from_histogram(made(values), "mse", symmetric=False)
    assert high < 0.96 * values.max()
    assert low < 0.75 * values.min()
