"""Building of engines, on the device that runs them or ahead of time."""
