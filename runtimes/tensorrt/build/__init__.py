"""Engines are built here, on the device that runs them or ahead of time."""
