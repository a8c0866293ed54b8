"""Calibration: arrays → ranges → explicit Q/DQ graph. Knows nothing of where the arrays came from."""

from vidrisk.calibration.observers import Ranges, observed_ranges
from vidrisk.calibration.qdq import float_islands, quantised_from_float

__all__ = ["Ranges", "float_islands", "observed_ranges", "quantised_from_float"]
