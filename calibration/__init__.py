"""Calibration: arrays → ranges → explicit Q/DQ graph → a point inside the accuracy budget. Knows nothing of where the arrays
came from. Read it in this order:

    files       an ONNX graph of any size as files
    graph       an ONNX graph as a net of nodes and tensors
    histogram   a one-pass histogram, and ranges from it
    observers   a histogram per activation, batch by batch; ``cache`` keeps them
    weights     weight scales and bias correction; ``migration`` moves range from activations into weights
    profiles    what integer kernels want; ``qdq`` inserts Q/DQ pairs accordingly
    recipe      which of these steps gain
    nbits       a weight matrix in 4 or 8 bits; ``weight_only`` packs those of a graph, and leaves activations as they
    are blocks      pieces of a graph; ``search`` finds those that stay in floating point; ``journal`` keeps what it
    measured paired      what samples prove; ``points`` compares the choices that a search has tried, and takes one
    single      what stays in float32 beside FP16; ``half`` types the rest; ``half_check`` finds what FP16 cannot do
    temperature  confidence that can be believed
    conformal   thresholds under which an answer is uncertain
"""

from vidrisk.calibration.histogram import Histogram, range_from_histogram
from vidrisk.calibration.observers import Statistics, observed_statistics, ranges_from_statistics
from vidrisk.calibration.points import Budget, Outcome, Point
from vidrisk.calibration.profiles import PROFILES, Profile
from vidrisk.calibration.qdq import quantised_from_float
from vidrisk.calibration.recipe import Observed, Quantiser, Recipe, chosen_recipe
from vidrisk.calibration.search import Search, search_precision
from vidrisk.calibration.temperature import fitted_temperature, matched_temperature

__all__ = [
    "PROFILES",
    "Budget",
    "Histogram",
    "Observed",
    "Outcome",
    "Point",
    "Profile",
    "Quantiser",
    "Recipe",
    "Search",
    "Statistics",
    "chosen_recipe",
    "fitted_temperature",
    "matched_temperature",
    "observed_statistics",
    "quantised_from_float",
    "range_from_histogram",
    "ranges_from_statistics",
    "search_precision",
]
