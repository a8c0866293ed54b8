"""A graph with dynamic axes for other programs: judged on each of its cases by every engine for processors, then written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vidrisk.export.convert.graphs import export_onnx
from vidrisk.export.convert.merge import merged_from_trained
from vidrisk.export.gate.keeper import FAULT
from vidrisk.export.trained import DynamicGraph
from vidrisk.runtimes.contract.errors import GateRefused, MissingExtra
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES, GPU_RUNTIMES, file_runtimes
from vidrisk.runtimes.runner import Arrays

# Of an output, as a share of its largest value, or of 1 where that is less. What differs is the order of sums in
# float32.
TOLERANCE = 1e-4


def write_dynamic_graph(graph: DynamicGraph, folder: Path, on_progress: OnProgress = ignore_progress) -> None:
    """Merge, convert and judge a graph, and write it with its texts.

    Args:
        folder: which is there; what is written into it when the graph is refused is worth nothing.

    Raises:
        GateRefused: an engine gives other outputs than the case says.
        RuntimeFailure: torch cannot export the module, or an engine not run the graph.
        MissingExtra: no engine is installed.
    """
    runtimes = [name for name in file_runtimes() if name not in GPU_RUNTIMES]
    if not runtimes:
        raise MissingExtra("onnxruntime", "cpu")
    on_progress(f"exporting {graph.name}", 0, 1)
    feed, _ = next(iter(graph.cases.values()))
    example = [torch.from_numpy(feed[spec.name]) for spec in graph.inputs]
    path = folder / f"{graph.name}.onnx"
    export_onnx(merged_from_trained(graph.module), example, graph.inputs, graph.outputs, path)
    for done, runtime in enumerate(runtimes):
        on_progress(f"judging {graph.name}", done, len(runtimes))
        judge_dynamic_graph(graph, path, runtime)
    for name, text in graph.texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def judge_dynamic_graph(graph: DynamicGraph, path: Path, runtime: str) -> None:
    """Compare what an engine computes from a file with what each case says.

    Raises:
        GateRefused: an output differs by more than it may.
    """
    with BUNDLE_RUNTIMES[runtime](path, graph.inputs, graph.outputs) as runner:
        for case, (feed, expected) in graph.cases.items():
            reason = _difference(runner.infer(feed), expected)
            if reason:
                raise GateRefused(
                    f"the gate refused {path.name}, nothing was written: of {case}, {runtime} computes {reason}",
                    fix=FAULT,
                )


def _difference(found: Arrays, expected: Arrays) -> str:
    """What is wrong with outputs, as a clause; empty where nothing is."""
    for name, array in expected.items():
        computed, wanted = np.asarray(found[name], np.float64), np.asarray(array, np.float64)
        if computed.shape != wanted.shape:
            return f"{name} {computed.shape} instead of {wanted.shape}"
        largest, apart = float(np.abs(wanted).max()), float(np.abs(computed - wanted).max())
        allowed = TOLERANCE * max(1.0, largest)
        if not apart <= allowed:  # what is not finite, too
            return f"{name} that is {apart:.2g} off where values reach {largest:.2g}; {allowed:.2g} is allowed"
    return ""
