"""The exported model in the optional formats of other tools, each checked by the gate.

    openvino    <stage>.<variant>.xml, .bin    OpenVINO's IR, of every variant
    torch       <stage>.pt2                    torch's ExportedProgram, of the merged model in floating point

vidrisk itself runs the ONNX files and never reads these; they are sealed in the bundle beside them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidrisk.export.convert.attention import plain_attention
from vidrisk.export.convert.graphs import dynamic_axes
from vidrisk.export.gate.judge import Files
from vidrisk.export.gate.keeper import Gatekeeper
from vidrisk.export.gate.outputs import Outputs
from vidrisk.export.trained import TrainedStage
from vidrisk.runtimes.contract.bundle import VariantName
from vidrisk.runtimes.contract.errors import RuntimeFailure, SettingsError, require
from vidrisk.runtimes.openvino import load_core
from vidrisk.runtimes.processor import may_saturate

log = logging.getLogger(__name__)


def openvino_files(gate: Gatekeeper, variants: Mapping[VariantName, Files]) -> list[Path]:
    """Convert admitted ONNX files to OpenVINO IR, and compare the results of both.

    A variant that OpenVINO cannot compute exactly on this processor is left out, with a warning.

    Raises:
        MissingExtra: OpenVINO is not installed.
        GateRefused: the IR computes something else.
        RuntimeFailure: OpenVINO cannot convert a file.
    """
    ov: Any = require("openvino", "cpu")
    made: list[Path] = []
    for done, (name, files) in enumerate(variants.items()):
        gate.on_progress("converting to OpenVINO IR", done, len(variants))
        if "openvino" not in gate.runtimes and any(map(may_saturate, files.values())):
            log.warning(
                "no OpenVINO IR of %s: OpenVINO cannot compute it exactly on this processor without VNNI, and a file "
                "that cannot be compared is not shipped",
                name,
            )
            continue
        converted: Files = {stage: path.with_suffix(".xml") for stage, path in files.items()}
        for stage, path in files.items():
            try:
                ov.save_model(load_core().read_model(str(path)), str(converted[stage]), compress_to_fp16=False)
            except Exception as error:  # openvino raises both RuntimeError and its own types
                raise RuntimeFailure(
                    f"OpenVINO cannot convert {path.name}: {error}", fix="leave its format out"
                ) from error
            made += [converted[stage], converted[stage].with_suffix(".bin")]
        before, after = gate.judge.onnx("openvino", files), gate.judge.onnx("openvino", converted)
        gate.admit([gate.exact(f"onnx {name} → OpenVINO IR", name, "openvino", before, after)])
    return list(dict.fromkeys(made))  # variants may share a stage


def program_files(gate: Gatekeeper, stages: Sequence[TrainedStage], exact: Outputs, folder: Path) -> list[Path]:
    """Write ExportedPrograms, reload them, and compare their results with the modules'.

    Args:
        gate: judges the programs.
        stages: with merged modules.
        exact: outputs of the modules on the validation samples.
        folder: to write to.

    Raises:
        SettingsError: a stage is an ONNX file.
        GateRefused: the programs compute something else.
        RuntimeFailure: torch cannot export a module.
    """
    paths: list[Path] = []
    programs: dict[str, nn.Module | Path] = {}
    for done, each in enumerate(stages):
        gate.on_progress("writing ExportedPrograms", done, len(stages))
        module = each.source
        if isinstance(module, Path):
            raise SettingsError(
                f"an ExportedProgram of stage {each.stage.name!r}, which comes from an ONNX file",
                allowed="stages that are torch modules",
                fix="leave the format torch out",
            )
        path = folder / f"{each.stage.name}.pt2"
        try:
            with warnings.catch_warnings(), plain_attention(module):
                warnings.simplefilter("ignore")  # deprecations that torch itself causes
                program = torch.export.export(
                    module.eval(), each.inputs(2), dynamic_shapes=dynamic_axes(each.stage.inputs)
                )
                torch.export.save(program, path)
                programs[each.stage.name] = _Loaded(path)
        except Exception as error:  # torch.export raises many types, with pages of report
            reason = str(error).strip().splitlines()[0]
            raise RuntimeFailure(
                f"torch cannot export {type(module).__name__}: {reason}", fix="leave its format out"
            ) from error
        paths.append(path)
    gate.admit([gate.exact("merged → ExportedProgram", "fp32", "torch", exact, gate.judge.sources(programs))])
    return paths


class _Loaded(nn.Module):
    """A program as a module, whose own module is always in evaluation mode and refuses to be set to it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._program = [torch.export.load(path).module()]  # in a list: no submodule

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self._program[0](*inputs)
