"""The exported model in the formats of other tools, for those who ask for them, each through the gate like everything else.

    openvino    <stage>.<variant>.xml, .bin    OpenVINO's IR, of every variant
    torch       <stage>.pt2                    torch's ExportedProgram, of the merged model in floating point

vidrisk itself runs the ONNX files and never reads these; they lie beside them in the bundle, sealed as they are.
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
from vidrisk.runtimes.openvino import shared_core
from vidrisk.runtimes.processor import may_saturate

log = logging.getLogger(__name__)


def openvino_files(gate: Gatekeeper, variants: Mapping[VariantName, Files]) -> list[Path]:
    """Convert admitted ONNX files, and compare what OpenVINO computes from either.

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
                "no OpenVINO IR of %s: OpenVINO cannot compute it exactly on this processor, which has no VNNI, and what "
                "cannot be compared is not shipped",
                name,
            )
            continue
        converted: Files = {stage: path.with_suffix(".xml") for stage, path in files.items()}
        for stage, path in files.items():
            try:
                ov.save_model(shared_core().read_model(str(path)), str(converted[stage]), compress_to_fp16=False)
            except Exception as error:  # openvino raises RuntimeError and its own types alike
                raise RuntimeFailure(
                    f"OpenVINO cannot convert {path.name}: {error}", fix="leave its format out"
                ) from error
            made += [converted[stage], converted[stage].with_suffix(".bin")]
        before, after = gate.judge.onnx("openvino", files), gate.judge.onnx("openvino", converted)
        gate.admit([gate.exact(f"onnx {name} → OpenVINO IR", name, "openvino", before, after)])
    return list(dict.fromkeys(made))  # variants may share a stage


def program_files(gate: Gatekeeper, stages: Sequence[TrainedStage], exact: Outputs, folder: Path) -> list[Path]:
    """Write ExportedPrograms, read them again, and compare what they compute with the modules.

    Args:
        stages: with merged modules.
        exact: what the modules compute on the validation samples.

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
                warnings.simplefilter("ignore")  # deprecations of torch's own making
                program = torch.export.export(
                    module.eval(), each.inputs(2), dynamic_shapes=dynamic_axes(each.stage.inputs)
                )
                torch.export.save(program, path)
                programs[each.stage.name] = _Loaded(path)
        except Exception as error:  # torch.export raises many types, with reports of pages
            reason = str(error).strip().splitlines()[0]
            raise RuntimeFailure(
                f"torch cannot export {type(module).__name__}: {reason}", fix="leave its format out"
            ) from error
        paths.append(path)
    gate.admit([gate.exact("merged → ExportedProgram", "fp32", "torch", exact, gate.judge.sources(programs))])
    return paths


class _Loaded(nn.Module):
    """A program as a module. Its own is always in evaluation mode, and refuses to be put there."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._program = [torch.export.load(path).module()]  # in a list: no submodule

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self._program[0](*inputs)
