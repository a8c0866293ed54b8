"""Tests of OpenVINO's effect on its process, of graphs without a batch, and of simultaneous calls."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from vidrisk.runtimes import openvino as module
from vidrisk.runtimes.contract.errors import RuntimeFailure
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
    """The engine's stack for signals must not be freed while another thread uses it."""
    end = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(onnx_files["encoder"])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (end.returncode, end.stdout) == (0, "interrupted\n"), end.stderr


FIRST_ARRAYS = """
import sys, threading
from vidrisk.runtimes.openvino import load_core
import openvino

load_core()
sys.setswitchinterval(1e-6)
together = threading.Barrier(8)

def pass_an_array():
    together.wait()
    openvino.Type.f32.to_dtype()

threads = [threading.Thread(target=pass_an_array, daemon=True) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("passed")
"""


def test_threads_that_pass_their_first_arrays_at_once_do_not_wait_forever() -> None:
    """OpenVINO's bindings import numpy at that moment, and could deadlock two threads."""
    for _ in range(3):
        end = subprocess.run(
            [sys.executable, "-c", FIRST_ARRAYS], capture_output=True, text=True, timeout=60, check=False
        )
        assert (end.returncode, end.stdout) == (0, "passed\n"), end.stderr


@pytest.mark.parametrize("width", [3, SMALL_ROW_BYTES // 4])
def test_a_graph_without_a_batch_is_run_as_it_is(width: int, tmp_path: Path) -> None:
    """Its inputs and outputs have unrelated first axes; none is divided into requests, however large its rows are."""
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


FRAMES = TensorSpec("frames", "uint8", ("batch", 8, 8, 3))
FEATURES = TensorSpec("features", "float32", ("batch", 6))


def test_concurrent_calls_share_requests_and_get_their_own_answers(
    onnx_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL_ROW_BYTES", 1)
    monkeypatch.setattr(module, "REQUEST_BYTES", 2 * 8 * 8 * 3)
    random = np.random.default_rng(0)
    batches = [random.integers(0, 256, (rows, 8, 8, 3), np.uint8) for rows in random.integers(1, 40, 60)]
    with OpenVinoRunner(onnx_files["encoder"], [FRAMES], [FEATURES]) as alone:
        expected = [alone.infer({"frames": batch})["features"] for batch in batches]
    with OpenVinoRunner(onnx_files["encoder"], [FRAMES], [FEATURES]) as shared, ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda batch: shared.infer({"frames": batch})["features"], batches, timeout=120)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_prepared_graph_is_not_compiled_again(onnx_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL_ROW_BYTES", 1)
    monkeypatch.setattr(module, "REQUEST_BYTES", 2 * 8 * 8 * 3)
    frames = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    with OpenVinoRunner(onnx_files["encoder"], [FRAMES], [FEATURES]) as runner:
        expected = runner.infer({"frames": frames})["features"]
    with OpenVinoRunner(onnx_files["encoder"], [FRAMES], [FEATURES]) as runner:
        runner.prepare(5)
        monkeypatch.setattr(runner, "_compile", lambda step: pytest.fail(f"compiled for {step} rows"))
        np.testing.assert_array_equal(runner.infer({"frames": frames})["features"], expected)


def test_a_graph_that_cannot_be_prepared(onnx_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(step: int | None) -> Any:
        raise RuntimeError("no kernel")

    with OpenVinoRunner(onnx_files["encoder"], [FRAMES], [FEATURES]) as runner:
        monkeypatch.setattr(runner, "_compile", refuse)
        with pytest.raises(RuntimeFailure, match="OpenVINO failed: no kernel"):
            runner.prepare(1)


def test_a_small_batch_waits_for_the_graph_that_is_being_prepared(
    onnx_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL_ROW_BYTES", 1)
    monkeypatch.setattr(module, "REQUEST_BYTES", 2 * 8 * 8 * 3)
    begun, compiled = threading.Event(), list[int | None]()
    with OpenVinoRunner(onnx_files["encoder"], [FRAMES], [FEATURES]) as runner, ThreadPoolExecutor(2) as threads:
        compile_graph = runner._compile

        def compile_slowly(step: int | None) -> Any:
            compiled.append(step)
            begun.set()
            time.sleep(0.5)
            return compile_graph(step)

        monkeypatch.setattr(runner, "_compile", compile_slowly)
        prepared = threads.submit(runner.prepare, 5)
        assert begun.wait(60)
        answer = threads.submit(runner.infer, {"frames": np.zeros((1, 8, 8, 3), np.uint8)}).result(timeout=60)
        prepared.result(timeout=60)
    assert answer["features"].shape == (1, 6) and compiled == [2]


def test_a_row_of_unknown_size_is_not_prepared(onnx_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    frames = TensorSpec("frames", "uint8", ("batch", "height", "width", 3))
    with OpenVinoRunner(onnx_files["encoder"], [frames], [FEATURES]) as runner:
        monkeypatch.setattr(runner, "_compile", lambda step: pytest.fail(f"compiled for {step} rows"))
        runner.prepare(5)


def test_a_closed_runner_cannot_be_prepared(onnx_files: dict[str, Path]) -> None:
    runner = OpenVinoRunner(onnx_files["encoder"], [FRAMES], [FEATURES])
    runner.close()
    with pytest.raises(RuntimeFailure, match="openvino runner is closed"):
        runner.prepare(1)


def test_a_call_after_ctrl_c_makes_new_requests(onnx_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL_ROW_BYTES", 1)
    monkeypatch.setattr(module, "REQUEST_BYTES", 2 * 8 * 8 * 3)
    frames = np.zeros((20, 8, 8, 3), np.uint8)
    part_of = module._part

    def interrupt(array: Any, start: int, step: int | None) -> Any:
        if start == 10:
            raise KeyboardInterrupt
        return part_of(array, start, step)

    with OpenVinoRunner(onnx_files["encoder"], [FRAMES], [FEATURES]) as runner:
        expected = runner.infer({"frames": frames})["features"]
        requests = dict(runner._idle)
        monkeypatch.setattr(module, "_part", interrupt)
        with pytest.raises(KeyboardInterrupt):
            runner.infer({"frames": frames})
        monkeypatch.setattr(module, "_part", part_of)
        with ThreadPoolExecutor(1) as threads:
            answer = threads.submit(runner.infer, {"frames": frames}).result(timeout=60)
        assert runner._idle[2] is not requests[2]
    np.testing.assert_array_equal(answer["features"], expected)


def test_a_call_that_fails_gives_its_requests_back(
    onnx_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the next call would wait for them forever."""
    monkeypatch.setattr(module, "SMALL_ROW_BYTES", 1)
    monkeypatch.setattr(module, "REQUEST_BYTES", 2 * 8 * 8 * 3)
    frames = np.zeros((20, 8, 8, 3), np.uint8)
    runner = OpenVinoRunner(onnx_files["encoder"], [FRAMES], [FEATURES])
    expected = runner.infer({"frames": frames})["features"]
    part_of = module._part
    requests = dict(runner._idle)

    def fail_late(array: Any, start: int, step: int | None) -> Any:
        if start == 10:
            return np.zeros((step or 1, 9, 9, 3), np.uint8)  # OpenVINO refuses the shape
        return part_of(array, start, step)

    monkeypatch.setattr(module, "_part", fail_late)
    for _ in range(20):
        with pytest.raises(RuntimeFailure, match="OpenVINO failed"):
            runner.infer({"frames": frames})
    monkeypatch.setattr(module, "_part", part_of)
    assert runner._idle == requests  # the same queues, not new ones
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(runner.infer, {"frames": frames}).result(timeout=60)
    np.testing.assert_array_equal(answer["features"], expected)
    runner.close()


def test_a_call_after_requests_could_not_be_made_makes_them(
    onnx_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    with OpenVinoRunner(onnx_files["encoder"], [FRAMES], [FEATURES]) as runner:
        made = runner._compile(None)

        class Full:
            def get_property(self, name: str) -> int:
                return 1

            def create_infer_request(self) -> Any:
                raise MemoryError("no room for a request")

        monkeypatch.setattr(runner, "_compile", lambda step: Full())
        with pytest.raises(RuntimeFailure, match="no room for a request"):
            runner.infer({"frames": frames})
        runner._compiled.clear()
        monkeypatch.setattr(runner, "_compile", lambda step: made)
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(runner.infer, {"frames": frames}).result(timeout=60)["features"].shape == (2, 6)
