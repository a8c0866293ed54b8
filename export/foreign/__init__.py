"""Models trained elsewhere: an ONNX classifier becomes a float graph from our frames to our logits."""
