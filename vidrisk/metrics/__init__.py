"""Metrics of classifiers: accuracy, calibration, certainty, and plots of them."""
