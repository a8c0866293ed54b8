"""Training: a configuration and a table in, a run directory out."""
