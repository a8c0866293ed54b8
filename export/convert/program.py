"""What torch's exporter gives → an ONNX graph, without a second copy of the weights in memory where they are many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from vidrisk.calibration import files


def graph_from_program(program: Any, path: Path) -> onnx.ModelProto:
    """The graph of an ``ONNXProgram``, to be saved at ``path``.

    What outgrows one file is written where ``save_graph`` wants it, tensor by tensor out of torch's memory, and the
    graph refers to it. The program's weights are those in the file then.
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
