"""How good a classifier is: accuracy, calibration, certainty, and plots of them."""
