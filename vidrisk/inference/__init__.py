"""Inference with a model: frames to features, windows to predictions; independent of ledger and output folder."""
