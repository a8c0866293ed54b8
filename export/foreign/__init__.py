"""Models that somebody else trained: an ONNX classifier becomes a float graph that takes our frames and gives our logits."""
