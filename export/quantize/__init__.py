"""From a float graph to INT8 and FP16, and quantisation-aware training."""
