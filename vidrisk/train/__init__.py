"""Training: from a configuration and a table to a run directory."""
