"""What OpenVINO does to the process around it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
    end = subprocess.run([sys.executable, "-c", PROGRAM, str(onnx_files["encoder"])], capture_output=True, text=True, timeout=60,
                         check=False)
    assert (end.returncode, end.stdout) == (0, "interrupted\n"), end.stderr
