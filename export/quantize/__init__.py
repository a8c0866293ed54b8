"""Quantisation of float graphs to INT8 and FP16, and quantisation-aware training."""
