"""Conversion of torch modules to graphs: adapters are merged, and modules exported to ONNX and other formats."""
