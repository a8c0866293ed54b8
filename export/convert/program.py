"""Conversion of torch's ``ONNXProgram`` to an ONNX graph without a second copy of large weights in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from vidrisk.calibration import files


def graph_from_program(program: Any, path: Path) -> onnx.ModelProto:
    """Return the graph of an ``ONNXProgram``, to be saved at ``path``.

    A graph too large for one file has its weights written to where ``save_graph`` expects them, tensor by tensor from
    torch's memory, and refers to them. The program's own weights are then those in the file.
    """
    import onnx_ir

    model = program.model
    if sum(value.const_value.nbytes for value in model.graph.initializers.values()) > files.MAX_INLINE_BYTES:
        small = files.SMALL_BYTES
        onnx_ir.external_data.unload_from_model(
            model,
            path.parent,
            files.data_path(path).name,
            size_threshold_bytes=small + 1,
            alignment=files.ALIGNMENT,
            align_threshold=small,
        )
    graph: onnx.ModelProto = onnx_ir.to_proto(model)
    files.refer_to(graph, path.parent)
    return graph
