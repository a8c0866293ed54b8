"""Graphs with dynamic axes for other programs, written after every CPU engine has reproduced each of their cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vidrisk.export.convert.graphs import export_onnx
from vidrisk.export.convert.merge import merge_trained
from vidrisk.export.gate.keeper import FAULT
from vidrisk.export.trained import DynamicGraph
from vidrisk.runtimes.contract.errors import GateRefused, MissingExtra
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES, GPU_RUNTIMES, file_runtimes
from vidrisk.runtimes.runner import Arrays

# Of an output, as a share of its largest value, or of 1 if that is less. Differences come from the order of float32
# sums.
TOLERANCE = 1e-4


def write_dynamic_graph(graph: DynamicGraph, folder: Path, on_progress: OnProgress = ignore_progress) -> None:
    """Merge, convert and judge a graph, and write it with its texts.

    Args:
        graph: the graph, its cases and its texts.
        folder: an existing folder; its contents are worthless if the graph is refused.
        on_progress: called at each step.

    Raises:
        GateRefused: an engine gives different outputs from those of a case.
        RuntimeFailure: torch cannot export the module, or an engine cannot run the graph.
        MissingExtra: no engine is installed.
    """
    runtimes = [name for name in file_runtimes() if name not in GPU_RUNTIMES]
    if not runtimes:
        raise MissingExtra("onnxruntime", "cpu")
    on_progress(f"exporting {graph.name}", 0, 1)
    feed, _ = next(iter(graph.cases.values()))
    example = [torch.from_numpy(feed[spec.name]) for spec in graph.inputs]
    path = folder / f"{graph.name}.onnx"
    export_onnx(merge_trained(graph.module), example, graph.inputs, graph.outputs, path)
    for done, runtime in enumerate(runtimes):
        on_progress(f"judging {graph.name}", done, len(runtimes))
        judge_dynamic_graph(graph, path, runtime)
    for name, text in graph.texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def judge_dynamic_graph(graph: DynamicGraph, path: Path, runtime: str) -> None:
    """Compare the outputs that an engine computes from a file with those of each case.

    Raises:
        GateRefused: an output differs by more than the tolerance.
    """
    with BUNDLE_RUNTIMES[runtime](path, graph.inputs, graph.outputs) as runner:
        for case, (feed, expected) in graph.cases.items():
            reason = _difference(runner.infer(feed), expected)
            if reason:
                raise GateRefused(
                    f"the gate refused {path.name}, nothing was written: for {case}, {runtime} computes {reason}",
                    fix=FAULT,
                )


def _difference(found: Arrays, expected: Arrays) -> str:
    """Return a clause that says what is wrong with outputs, or an empty string."""
    for name, array in expected.items():
        computed, wanted = np.asarray(found[name], np.float64), np.asarray(array, np.float64)
        if computed.shape != wanted.shape:
            return f"{name} {computed.shape} instead of {wanted.shape}"
        largest, apart = float(np.abs(wanted).max()), float(np.abs(computed - wanted).max())
        allowed = TOLERANCE * max(1.0, largest)
        if not apart <= allowed:  # also if it is not finite
            return f"{name} that is {apart:.2g} off where values reach {largest:.2g}; {allowed:.2g} is allowed"
    return ""
