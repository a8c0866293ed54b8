"""The exported model in the formats of other tools, for those who ask for them, each through the gate like everything else.

    openvino    <graph>.<variant>.xml, .bin    OpenVINO's IR, of every variant
    torch       <graph>.pt2                    torch's ExportedProgram, of the merged model in floating point

vidrisk itself runs the ONNX files and never reads these; they lie beside them in the bundle, sealed as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidrisk.export.attention import plain_attention
from vidrisk.export.graphs import dynamic_axes
from vidrisk.export.judge import Files
from vidrisk.export.keeper import Gatekeeper
from vidrisk.export.outputs import Outputs
from vidrisk.runtimes.bundle import VariantName
from vidrisk.runtimes.errors import RuntimeFailure, require
from vidrisk.runtimes.openvino import shared_core


def openvino_files(gate: Gatekeeper, variants: Mapping[VariantName, Files]) -> list[Path]:
    """Convert admitted ONNX files, and compare what OpenVINO computes from either.

    Raises:
        MissingExtra: OpenVINO is not installed.
        GateRefused: the IR computes something else.
        RuntimeFailure: OpenVINO cannot convert a file.
    """
    ov: Any = require("openvino", "cpu")
    made: list[Path] = []
    for done, (name, files) in enumerate(variants.items()):
        gate.on_progress("converting to OpenVINO IR", done, len(variants))
        converted: Files = {graph: path.with_suffix(".xml") for graph, path in files.items()}
        for graph, path in files.items():
            try:
                ov.save_model(shared_core().read_model(str(path)), str(converted[graph]), compress_to_fp16=False)
            except Exception as error:  # openvino raises RuntimeError and its own types alike
                raise RuntimeFailure(f"OpenVINO cannot convert {path.name}: {error}", fix="leave its format out") from error
            made += [converted[graph], converted[graph].with_suffix(".bin")]
        before, after = gate.judge.onnx("openvino", files), gate.judge.onnx("openvino", converted)
        gate.admit([gate.exact(f"onnx {name} → OpenVINO IR", name, "openvino", before, after)])
    return list(dict.fromkeys(made))  # variants may share a head


def program_files(gate: Gatekeeper, modules: Mapping[str, nn.Module], examples: Mapping[str, torch.Tensor], exact: Outputs,
                  folder: Path) -> list[Path]:
    """Write ExportedPrograms, read them again, and compare what they compute with the modules.

    Args:
        modules: ``encoder`` and ``head``, merged.
        examples: an input of each, with a batch of at least 2.
        exact: what the modules compute on the validation samples.

    Raises:
        GateRefused: the programs compute something else.
        RuntimeFailure: torch cannot export a module.
    """
    paths: list[Path] = []
    programs: dict[str, nn.Module] = {}
    for done, (graph, module) in enumerate(modules.items()):
        gate.on_progress("writing ExportedPrograms", done, len(modules))
        path = folder / f"{graph}.pt2"
        axes = dynamic_axes(gate.judge.graphs["encoder" if graph == "encoder" else "head"].inputs[0])
        try:
            with warnings.catch_warnings(), plain_attention(module):
                warnings.simplefilter("ignore")  # deprecations of torch's own making
                program = torch.export.export(module.eval(), (examples[graph],), dynamic_shapes=(axes,))
                torch.export.save(program, path)
                programs[graph] = _Loaded(path)
        except Exception as error:  # torch.export raises many types, with reports of pages
            reason = str(error).strip().splitlines()[0]
            raise RuntimeFailure(f"torch cannot export {type(module).__name__}: {reason}", fix="leave its format out") from error
        paths.append(path)
    after = gate.judge.torch(programs["encoder"], programs["head"])
    gate.admit([gate.exact("merged → ExportedProgram", "fp32", "torch", exact, after)])
    return paths


class _Loaded(nn.Module):
    """A program as a module. Its own is always in evaluation mode, and refuses to be put there."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._program = [torch.export.load(path).module()]  # in a list: no submodule

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self._program[0](*inputs)
