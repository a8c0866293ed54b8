"""From torch modules to graphs: adapters are merged, modules exported to ONNX and to other formats."""
