"""A model that answers: frames to features, windows to predictions. Knows no ledger and no output folder."""
