"""Calibration: from arrays to ranges, to an explicit Q/DQ graph, to a point inside the accuracy budget.

It does not know where the arrays come from. The modules, in reading order:

    files        an ONNX graph of any size as files
    graph        an ONNX graph as a net of nodes and tensors
    histogram    a one-pass histogram, and ranges from it
    observers    a histogram per activation, batch by batch; ``cache`` stores them
    weights      weight scales and bias correction; ``migration`` moves range from activations into weights
    profiles     what integer kernels need; ``qdq`` inserts Q/DQ pairs accordingly
    recipe       which of these steps gain
    nbits        a weight matrix in 4 or 8 bits; ``weight_only`` packs those of a graph and leaves activations unchanged
    blocks       pieces of a graph; ``search`` finds those that stay in floating point; ``journal`` stores measurements
    points       compares the choices that a search has tried, and picks one
    single       what stays in float32 beside FP16; ``half`` types the rest; ``half_check`` finds exceptions
    temperature  calibrated confidence
    conformal    thresholds below which an answer is uncertain
"""

from vidrisk.calibration.histogram import Histogram, range_from_histogram
from vidrisk.calibration.observers import Statistics, observe_statistics, ranges_from_statistics
from vidrisk.calibration.points import Budget, Outcome, Point
from vidrisk.calibration.profiles import PROFILES, Profile
from vidrisk.calibration.qdq import qdq_from_float
from vidrisk.calibration.recipe import Observed, Quantizer, Recipe, choose_int8_recipe
from vidrisk.calibration.search import Search, search_precision
from vidrisk.calibration.temperature import fit_temperature, match_temperature

__all__ = [
    "PROFILES",
    "Budget",
    "Histogram",
    "Observed",
    "Outcome",
    "Point",
    "Profile",
    "Quantizer",
    "Recipe",
    "Search",
    "Statistics",
    "choose_int8_recipe",
    "fit_temperature",
    "match_temperature",
    "observe_statistics",
    "qdq_from_float",
    "range_from_histogram",
    "ranges_from_statistics",
    "search_precision",
]
