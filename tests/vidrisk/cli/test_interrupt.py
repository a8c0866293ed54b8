"""Tests of the second Ctrl-C: it ends the process at once, even in an engine that never returns.

Finished results are kept, and the run can be resumed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from colour import ACTION
from onnx import TensorProto, helper, numpy_helper
from small_media import write_photo

from vidrisk.cli.interrupt import END, end_at_second_interrupt
from vidrisk.jobs.ledger import read_ledger
from vidrisk.runtimes import Manifest, Variant, write_bundle
from vidrisk.runtimes.contract.errors import EXIT_INTERRUPTED
from vidrisk.runtimes.contract.stages import frame_encoder_stages

PHOTOS = 200  # some of them are in the ledger before the black one is read, whoever reads ahead
VALUE = helper.make_tensor_value_info
COUNT_FOR_EVER = helper.make_graph(
    [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["carried", "zero"], ["next"])],
    "body",
    [
        VALUE("turn", TensorProto.INT64, []),
        VALUE("go", TensorProto.BOOL, []),
        VALUE("carried", TensorProto.FLOAT, None),
    ],
    [VALUE("on", TensorProto.BOOL, []), VALUE("next", TensorProto.FLOAT, None)],
    [numpy_helper.from_array(np.array(0, np.float32), "zero")],
)


def write_endless_bundle(root: Path, endless: str) -> None:
    """Write a bundle whose encoder or head loops for ever if a frame is black.

    The features are the mean colour.
    """
    encoder, head = frame_encoder_stages(ACTION, 3)
    files = {}
    for name, graph, axes in (("encoder", encoder, [1, 2]), ("head", head, [1])):
        (of,), (to,) = graph.inputs, graph.outputs
        nodes = [
            helper.make_node("Cast", [of.name], ["float"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["float", "axes"], ["plain"], keepdims=0),
        ]
        if name == endless:
            nodes += [
                helper.make_node("ReduceMax", ["plain", "last"], ["brightest"], keepdims=0),
                helper.make_node("ReduceMin", ["brightest"], ["darkest"], keepdims=0),
                helper.make_node("Less", ["darkest", "five"], ["is_black"]),
                helper.make_node("Loop", ["", "is_black", "plain"], [to.name], body=COUNT_FOR_EVER),
            ]
        else:
            nodes.append(helper.make_node("Identity", ["plain"], [to.name]))
        inputs, outputs = (
            [VALUE(s.name, helper.np_dtype_to_tensor_dtype(np.dtype(s.dtype)), s.shape)] for s in (of, to)
        )
        constants = {"axes": np.array(axes), "last": np.array([1]), "five": np.array(5, np.float32)}
        made = helper.make_graph(
            nodes, name, inputs, outputs, [numpy_helper.from_array(v, k) for k, v in constants.items()]
        )
        files[f"{name}.fp32.onnx"] = path = root.with_name(f"{name}.onnx")
        onnx.save_model(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    variant = Variant(
        files={"encoder": "encoder.fp32.onnx", "head": "head.fp32.onnx"},
        precision={"encoder": "fp32", "head": "fp32"},
        passed=True,
    )
    write_bundle(root, Manifest(contract=ACTION, stages=(encoder, head), variants={"fp32": variant}, files={}), files)


@pytest.mark.parametrize("endless", ["encoder", "head"])
def test_an_engine_that_never_returns(tmp_path: Path, endless: str) -> None:
    write_endless_bundle(tmp_path / "endless.bundle", endless)
    (tmp_path / "photos").mkdir()
    for number in range(PHOTOS):
        write_photo(tmp_path / "photos" / f"{number:03}.png", ("red", "green", "blue")[number % 3])
    write_photo(tmp_path / "photos" / "zz.png", "black")
    command = [
        sys.executable,
        "-m",
        "vidrisk",
        "infer",
        "endless.bundle",
        "photos",
        "-o",
        "out",
        "--runtime",
        "onnxruntime",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "VIDRISK_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        try:
            deadline = time.monotonic() + 180
            lines = tmp_path / "out" / "predictions.jsonl"
            before, written = -1, 0
            while not written or written != before:  # where no more is written, the last batch is at work
                assert running.poll() is None and time.monotonic() < deadline
                time.sleep(2)
                before, written = written, lines.stat().st_size if lines.is_file() else 0
            running.send_signal(signal.SIGINT)
            time.sleep(1)
            assert running.poll() is None  # the first one waits for what it has begun
            running.send_signal(signal.SIGINT)
            _, stderr = running.communicate(timeout=10)
        finally:
            running.kill()  # where a step failed, it would never end
    assert (running.returncode, stderr) == (EXIT_INTERRUPTED, END)
    rows = read_ledger(tmp_path / "out")
    done = [row for row in rows if row.state == "ok"]
    assert done and len(lines.read_bytes().splitlines()) >= len(done)
    (tmp_path / "photos" / "zz.png").unlink()
    end = subprocess.run(
        [*command, "--resume"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert f"{PHOTOS} ok, 1 skipped" in end.stdout and len(lines.read_bytes().splitlines()) == PHOTOS


def test_nothing_is_left_behind_by_the_watching() -> None:
    before, handler = signal.set_wakeup_fd(-1), signal.getsignal(signal.SIGINT)
    signal.set_wakeup_fd(before)
    for _ in range(3):
        with end_at_second_interrupt(), pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, handler)  # a command that was interrupted ignores further ones while it ends
    now = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    assert now == before
