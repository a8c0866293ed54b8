"""Export of a trained model to merged weights, ONNX, INT8, the gate and a bundle, without video files or the CLI."""
