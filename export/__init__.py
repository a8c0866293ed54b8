"""Export: trained model → merged → ONNX → INT8 → gate → bundle. Knows nothing of video files and the command line."""
