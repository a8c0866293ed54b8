"""What OpenVINO does to the process around it, and to graphs that have no batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.openvino import SMALL_ROW_BYTES, OpenVinoRunner

PROGRAM = """
import gc, os, signal, sys, threading, time
from pathlib import Path
import numpy as np
from vidrisk.runtimes.openvino import OpenVinoRunner
from vidrisk.runtimes.contract.specs import TensorSpec

runner = OpenVinoRunner(Path(sys.argv[1]), [TensorSpec("frames", "uint8", ("batch", 8, 8, 3))],
                        [TensorSpec("features", "float32", ("batch", 6))])
runner.infer({"frames": np.zeros((1, 8, 8, 3), np.uint8)})
kept = [runner]
del runner

def let_go():
    kept.pop().close()
    gc.collect()

thread = threading.Thread(target=let_go)
thread.start()
thread.join()
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_after_another_thread_has_let_go_of_the_engine(onnx_files: dict[str, Path]) -> None:
    """The engine's own stack for signals must not be freed under the feet of the thread that has it."""
    end = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(onnx_files["encoder"])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (end.returncode, end.stdout) == (0, "interrupted\n"), end.stderr


@pytest.mark.parametrize("width", [3, SMALL_ROW_BYTES // 4])
def test_a_graph_without_a_batch_is_run_as_it_is(width: int, tmp_path: Path) -> None:
    """Its inputs and outputs have first axes of their own; none is cut into requests, however large its rows are."""
    specs = [
        TensorSpec("rows", "float32", ("rows", width)),
        TensorSpec("places", "int64", ("places",)),
        TensorSpec("taken", "float32", ("places", width)),
    ]
    values = [
        helper.make_tensor_value_info(spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.shape)
        for spec in specs
    ]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["rows", "places"], ["taken"])], "take", values[:2], values[2:]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(tmp_path / "take.onnx")
    )
    assert values[1].type.tensor_type.elem_type == TensorProto.INT64
    with OpenVinoRunner(tmp_path / "take.onnx", specs[:2], specs[2:]) as runner:
        rows = np.random.default_rng(0).normal(size=(4, width)).astype(np.float32)
        for places in ([3, 0], [1], [0, 1, 2, 3, 3, 3, 2]):
            found = runner.infer({"rows": rows, "places": np.array(places)})["taken"]
            np.testing.assert_array_equal(found, rows[places])
