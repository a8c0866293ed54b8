"""A histogram that adapts in one pass, and the range that a quantiser should take of it.

Bins are equal, their width is a power of two and their edges are multiples of it. When a batch widens the span, the width
doubles and neighbouring bins merge in pairs, which loses nothing: ``floor(floor(x / w) / 2) == floor(x / 2w)``. So the
histogram of a stream equals, bin for bin, the one of all its values at once, however they were batched and ordered.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Method = Literal["minmax", "percentile", "entropy", "mse"]
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BINS = 4096
PERCENTILE = 99.99  # of the values lie inside the range; each tail of a two-sided one loses half of the rest
CANDIDATES = 80  # ranges that entropy and mse choose from
SMALLEST_SHRINK = 0.02  # of mse: transformers have outliers 50 × beyond the rest
STEPS_ASYMMETRIC = 255
STEPS_SYMMETRIC = 127  # on either side of zero
_CHUNK = 1 << 16  # values at a time, so that what is computed of them stays in the processor's cache
_SMALLEST_EXPONENT = -149  # of a float32


@dataclass(eq=False)
class Histogram:
    """Counts of float32 values in at most ``BINS`` bins; bin ``i`` holds ``[(first + i) · width, (first + i + 1) · width)``.

    The width is the smallest power of two that spans what was seen, but not below the float32 spacing at its largest
    magnitude: finer bins would only be empty, and a constant would have none.

    Attributes:
        counts: int64, from the bin of ``low`` to the bin of ``high``.
        first: index of the first bin.
        exponent: the width is ``2 ** exponent``.
        low, high: smallest and largest value, exact; infinite and reversed while nothing was seen.
        zeros: how many values are exactly zero. Every quantiser keeps those.
    """

    counts: Counts = field(default_factory=lambda: np.zeros(0, np.int64))
    first: int = 0
    exponent: int = _SMALLEST_EXPONENT
    low: float = math.inf
    high: float = -math.inf
    zeros: int = 0

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    @property
    def width(self) -> float:
        return math.ldexp(1.0, self.exponent)

    def observe(self, values: npt.NDArray[Any]) -> None:
        """Add finite float32 values of any shape. An empty array changes nothing."""
        if not values.size:
            return
        flat = values.reshape(-1)
        self._span(float(flat.min()), float(flat.max()))
        for start in range(0, flat.size, _CHUNK):
            # In float64, where no quotient of two float32 underflows: a tiny negative value belongs below zero.
            indices = np.multiply(flat[start : start + _CHUNK], 1 / self.width, dtype=np.float64)
            np.floor(indices, out=indices)
            indices -= self.first
            self.counts += np.bincount(indices.astype(np.intp), minlength=len(self.counts))
        self.zeros += flat.size - int(np.count_nonzero(flat))

    def _span(self, low: float, high: float) -> None:
        """Widen the bins, where need be, until ``low`` and ``high`` have one."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        exponent = _exponent(self.low, self.high)
        first, last = _bin(self.low, exponent), _bin(self.high, exponent)
        if (exponent, first, last) == (self.exponent, self.first, self.first + len(self.counts) - 1):
            return
        counts = np.zeros(last - first + 1, np.int64)
        shift = min(exponent - self.exponent, 62)  # beyond that every index is 0 or -1 all the same
        merged = (np.arange(len(self.counts)) + self.first) >> shift
        np.add.at(counts, merged - first, self.counts)
        self.counts, self.first, self.exponent = counts, first, exponent

    def sides(self) -> tuple[Counts, Counts, float]:
        """Counts below and above zero, each from zero outwards, and their bin width: data far from zero needs wider bins to
        reach it. Below, there may be none."""
        wider = Histogram(self.counts, self.first, self.exponent, self.low, self.high)
        wider._span(0.0, 0.0)
        negative, positive = np.split(wider.counts, [-wider.first])
        return negative[::-1], positive, wider.width


def _bin(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))


def _exponent(low: float, high: float) -> int:
    exponent = max(math.frexp(max(-low, high))[1] - 24, _SMALLEST_EXPONENT) if low or high else _SMALLEST_EXPONENT
    while _bin(high, exponent) - _bin(low, exponent) >= BINS:
        exponent += 1
    return exponent


def range_from_histogram(histogram: Histogram, method: Method, *, symmetric: bool) -> tuple[float, float]:
    """The range that 8 bits should cover. It lies inside that of the data, and holds zero where that does.

        minmax      everything.
        percentile  all but the outermost 0.01 % of the values.
        entropy     least divergence of the values in 8 bits from the values (Migacz, "8-bit inference with TensorRT", 2017);
                    a two-sided asymmetric range shrinks in proportion at both ends.
        mse         least expected squared error of clipping and rounding.

    Values that are all of one sign are quantised from zero on, so only the end away from zero is ever cut.

    Args:
        symmetric: for int8 around zero, one threshold for both signs; otherwise for uint8 with any zero point.
    """
    low, high = histogram.low, histogram.high
    if method == "minmax" or low == high:
        return low, high
    start, stop = _CHOICES[method](histogram, symmetric)
    return min(max(min(start, 0.0), low), high), max(min(max(stop, 0.0), high), low)


def _percentile_range(histogram: Histogram, symmetric: bool) -> tuple[float, float]:
    outside = (1 - PERCENTILE / 100) * histogram.count
    negative, positive, width = histogram.sides()
    if symmetric:
        stop = _bins_kept(_folded(negative, positive), outside) * width
        return -stop, stop
    return -_bins_kept(negative, outside / 2) * width, _bins_kept(positive, outside / 2) * width


def _bins_kept(side: Counts, outside: float) -> int:
    """Bins that remain when as many of the outermost go as hold at most ``outside`` values."""
    return len(side) - int(np.searchsorted(np.cumsum(side[::-1]), outside, side="right"))


def _folded(negative: Counts, positive: Counts) -> Counts:
    """Counts of magnitudes."""
    counts = np.zeros(max(len(negative), len(positive)), np.int64)
    counts[: len(negative)] += negative
    counts[: len(positive)] += positive
    return counts


def _entropy_range(histogram: Histogram, symmetric: bool) -> tuple[float, float]:
    negative, positive, width = histogram.sides()
    steps = STEPS_ASYMMETRIC
    if symmetric:
        negative, positive, steps = negative[:0], _folded(negative, positive), STEPS_SYMMETRIC
    counts, zero = np.concatenate([negative[::-1], positive]), len(negative)
    counts[zero] -= histogram.zeros  # exact in every candidate; left in, the zeros of a ReLU would outweigh all the rest
    best, chosen = math.inf, (0, len(counts))
    for part in np.linspace(1, min((steps + 1) / len(counts), 1), CANDIDATES).tolist():
        start, stop = zero - math.ceil(part * len(negative)), zero + math.ceil(part * len(positive))
        found = _divergence(counts, start, stop, steps + 1)
        if found < best:
            best, chosen = found, (start, stop)
    start, stop = ((bound - zero) * width for bound in chosen)
    return (-stop, stop) if symmetric else (start, stop)


def _divergence(counts: Counts, start: int, stop: int, levels: int) -> float:
    """Kullback-Leibler divergence from the values, clipped to the bins ``start:stop``, to those same bins in ``levels`` levels.

    The values of a level are spread evenly over its bins that hold any.
    """
    inside = counts[start:stop]
    clipped = inside.copy()
    clipped[0] += counts[:start].sum()
    clipped[-1] += counts[stop:].sum()
    used = clipped > 0
    levels = min(levels, len(inside))
    bounds = np.arange(levels + 1) * len(inside) // levels
    held = np.add.reduceat(inside, bounds[:-1]) / np.maximum(np.add.reduceat(used, bounds[:-1], dtype=np.int64), 1)
    coarse = np.repeat(held, np.diff(bounds))[used]
    if not coarse.all():  # an end level that holds nothing but what was clipped
        return math.inf
    p, q = clipped[used] / clipped.sum(), coarse / inside.sum()
    return float((p * np.log(p / q)).sum())


def _mse_range(histogram: Histogram, symmetric: bool) -> tuple[float, float]:
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    parts: list[float] = np.geomspace(1, SMALLEST_SHRINK, CANDIDATES).tolist()
    error = _expected_error(histogram, symmetric)
    if symmetric or not low < 0 < high:
        return min(((low * part, high * part) for part in parts), key=error)
    # Outliers may be on one side only, or on both at different distances: a coarse start, and then each end finely.
    starts = [(low * a, high * b) for part in parts[::4] for a, b in ((part, part), (1, part), (part, 1))]
    start, stop = min(starts, key=error)
    start, stop = min(((start, high * part) for part in parts), key=error)
    return min(((low * part, stop) for part in parts), key=error)


def _expected_error(histogram: Histogram, symmetric: bool) -> Callable[[tuple[float, float]], float]:
    """The function that gives the squared error of a range, summed over the histogram's values, in units of its width².

    Values are taken to be spread evenly within a bin. Rounding to multiples of s errs by a sawtooth whose square has the
    integral ∫₀ˣ = s³/12 · round(x/s) + (x − s · round(x/s))³/3, and clipping at an end adds (x − end)³/3 beyond it.
    """
    edges = histogram.first + np.arange(len(histogram.counts) + 1, dtype=np.float64)
    edges[0] = min(histogram.low / histogram.width, edges[1] - 1e-3)
    edges[-1] = max(histogram.high / histogram.width, edges[-2] + 1e-3)
    counts = histogram.counts.copy()
    if histogram.zeros:
        counts[-histogram.first] -= histogram.zeros
    density = counts / np.diff(edges)

    def error(bounds: tuple[float, float]) -> float:
        start, stop = bounds[0] / histogram.width, bounds[1] / histogram.width
        if symmetric:
            step = stop / STEPS_SYMMETRIC
        else:
            step = (stop - start) / STEPS_ASYMMETRIC
            start = round(start / step) * step  # zero falls on a step, which moves both ends by up to half of one
            stop = start + STEPS_ASYMMETRIC * step
        inside = np.clip(edges, start, stop)
        multiple = np.rint(inside / step)
        rest, beyond = inside - multiple * step, edges - inside
        integral = multiple * (step**3 / 12) + (rest * rest * rest + beyond * beyond * beyond) / 3
        return float(np.diff(integral) @ density)

    return error


_CHOICES: dict[Method, Callable[[Histogram, bool], tuple[float, float]]] = {
    "percentile": _percentile_range,
    "entropy": _entropy_range,
    "mse": _mse_range,
}
