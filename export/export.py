"""One export: merge, convert, calibrate, pass the gate, write the bundle. A refusal leaves nothing behind."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from vidrisk.calibration import float_islands, observed_ranges, quantised_from_float
from vidrisk.export.gate import BATCH, GateReport, Hop, Outputs, Validation, few_samples_note, float_hop, int8_hop, outputs_of
from vidrisk.export.graphs import export_onnx
from vidrisk.export.merge import has_adapter, merged_from_trained
from vidrisk.export.registry import exporter_config
from vidrisk.runtimes.bundle import Bundle, Graph, Manifest, Variant, VariantName, check_vacant, write_bundle
from vidrisk.runtimes.contract import Contract
from vidrisk.runtimes.errors import DataError, GateRefused, MissingExtra, SettingsError
from vidrisk.runtimes.select import BUNDLE_RUNTIMES, installed_runtimes
from vidrisk.runtimes.torch import TorchRunner

log = logging.getLogger(__name__)

OnProgress = Callable[[str, int, int], None]
MIN_CALIBRATION = 16
AGREEMENT_AIM = 0.97  # of INT8 predictions with the floating-point ones; more operators stay in float until it is met
MADE_WITH = ("vidrisk", "torch", "transformers", "onnx", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Trained:
    """What an application hands over: two modules and what they promise.

    Attributes:
        encoder: ``uint8 (N, H, W, 3)`` → ``float32 (N, width)``; may carry an unmerged adapter.
        head: ``float32 (B, T, width)`` → a tuple of logits ``(B, C)``, one per target of the contract.
        family: model_type of the backbone, the key to its export configuration.
        backbone_config: the backbone's Hugging Face configuration, or None.
        width: D, size of a feature.
    """

    encoder: nn.Module
    head: nn.Module
    contract: Contract
    family: str
    width: int
    backbone_config: Any = None


@dataclass(frozen=True)
class ExportOptions:
    """``only`` ships one variant alone; None ships every variant that was made."""

    int8: bool = False
    max_drop: float = 1.0
    only: VariantName | None = None
    source: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        made = ("fp32", "int8") if self.int8 else ("fp32",)
        if self.only is not None and self.only not in made:
            raise SettingsError(f"only {self.only!r} is to be shipped", allowed=", ".join(made), fix="make it, too: --int8")


def export_bundle(trained: Trained, out: Path, validation: Validation, calibration: npt.NDArray[np.uint8],
                  options: ExportOptions,
                  on_progress: OnProgress = lambda what, done, total: None) -> tuple[Bundle, GateReport]:
    """Export a trained model and write its bundle.

    Args:
        out: folder to make; it must not exist.
        validation: labelled samples for the gate.
        calibration: frames ``uint8 (N, H, W, 3)`` for the INT8 ranges; disjoint from the validation samples.

    Returns:
        The verified bundle and what the gate measured.

    Raises:
        GateRefused: a hop lost more than it may; nothing is written.
        BundleError: ``out`` exists.
        DataError: too few calibration frames.
    """
    check_vacant(out)
    if options.int8 and len(calibration) < MIN_CALIBRATION:
        raise DataError(f"{len(calibration)} calibration frames", allowed=f"at least {MIN_CALIBRATION}",
                        fix="give more with --calib or --calib-samples")
    runtimes = installed_runtimes()
    if not runtimes:
        raise MissingExtra("onnxruntime", "cpu")
    count = len(validation.names)
    report = GateReport(options.max_drop, count, note=few_samples_note(count))
    judge = _Judge(trained.contract, graphs_from_contract(trained.contract, trained.width), validation)
    steps = 4 + options.int8
    with tempfile.TemporaryDirectory(prefix="vidrisk-export-") as scratch:
        work = Path(scratch)
        on_progress("merging the adapter", 0, steps)
        merged, reference = _merge(trained, judge, report)
        on_progress("exporting to ONNX", 1, steps)
        fp32 = _export_fp32(trained, merged, judge.graphs, work)
        on_progress("comparing ONNX with torch", 2, steps)
        floats = {runtime: judge.onnx(runtime, fp32) for runtime in runtimes}
        _admit(report, [float_hop("merged → onnx fp32", "fp32", runtime, reference, outputs, validation)
                        for runtime, outputs in floats.items()])
        variants: dict[VariantName, dict[str, Path]] = {"fp32": fp32}
        if options.int8:
            on_progress("calibrating INT8", 3, steps)
            variants["int8"] = _export_int8(fp32, floats, calibration, judge, report, work)
        on_progress("writing the bundle", steps - 1, steps)
        bundle = _write(out, judge, variants, report, options, work)
    on_progress("done", steps, steps)
    return bundle, report


def graphs_from_contract(contract: Contract, width: int) -> dict[Literal["encoder", "head"], Graph]:
    """Tensor specs of the two graphs, for features of ``width``."""
    return {"encoder": Graph(inputs=contract.encoder_inputs(), outputs=contract.encoder_outputs(width)),
            "head": Graph(inputs=contract.head_inputs(width), outputs=contract.head_outputs())}


@dataclass(frozen=True)
class _Judge:
    """Runs any stage of the model over the validation samples."""

    contract: Contract
    graphs: dict[Literal["encoder", "head"], Graph]
    validation: Validation

    def torch(self, encoder: nn.Module, head: nn.Module) -> Outputs:
        before, after = self.graphs["encoder"], self.graphs["head"]
        return outputs_of(TorchRunner(encoder, before.inputs, before.outputs), TorchRunner(head, after.inputs, after.outputs),
                          self.contract, self.validation.frames)

    def onnx(self, runtime: str, files: dict[str, Path]) -> Outputs:
        engine = BUNDLE_RUNTIMES[runtime]
        encoder, head = (engine(files[name], graph.inputs, graph.outputs) for name, graph in self.graphs.items())
        with encoder, head:
            return outputs_of(encoder, head, self.contract, self.validation.frames)


def _admit(report: GateReport, hops: Sequence[Hop]) -> None:
    """Take hops into the report, and stop the export at the first refused one."""
    report.hops.extend(hops)
    for hop in hops:
        if not hop.passed:
            fix = "raise --max-drop only if you can bear the loss" if hop.variant == "int8" else (
                "this is a fault of the export, not of your data: please report it with the versions that vidrisk doctor lists")
            what = f"the gate refused {hop.name} ({hop.runtime}), nothing was written: {hop.reason}"
            raise GateRefused(what, fix=fix, report=report)


def _merge(trained: Trained, judge: _Judge, report: GateReport) -> tuple[nn.Module, Outputs]:
    """The encoder in plain layers, and its outputs, once the gate has admitted the hop."""
    before = judge.torch(trained.encoder, trained.head)
    merged = merged_from_trained(trained.encoder)
    outputs = judge.torch(merged, trained.head)
    name = "adapter → merged" if has_adapter(trained.encoder) else "frozen → folded"
    _admit(report, [float_hop(name, "merged", "torch", before, outputs, judge.validation)])
    return merged, outputs


def _export_fp32(trained: Trained, merged: nn.Module, graphs: dict[Literal["encoder", "head"], Graph],
                 work: Path) -> dict[str, Path]:
    pixel = trained.contract.pixel
    config = exporter_config(trained.family, trained.backbone_config)
    frames = config.generate_dummy_inputs(batch_size=2, height=pixel.height, width=pixel.width)["frames"]
    features = torch.zeros((2, trained.contract.frames, trained.width))
    files: dict[str, Path] = {name: work / f"{name}.fp32.onnx" for name in graphs}
    export_onnx(merged, frames, graphs["encoder"].inputs, graphs["encoder"].outputs, files["encoder"])
    export_onnx(trained.head, features, graphs["head"].inputs, graphs["head"].outputs, files["head"])
    return files


def _export_int8(fp32: dict[str, Path], floats: dict[str, Outputs], calibration: npt.NDArray[np.uint8], judge: _Judge,
                 report: GateReport, work: Path) -> dict[str, Path]:
    """The INT8 encoder with the fewest operators in floating point that agrees well enough, on every runtime here.

    The head stays in fp32: it is a thousandth of the work.
    """
    model = onnx.load(str(fp32["encoder"]))
    ranges = observed_ranges(model, ({"frames": calibration[i : i + BATCH]} for i in range(0, len(calibration), BATCH)))
    tried: list[tuple[dict[str, Path], list[Hop]]] = []
    for step, (description, keep_float) in enumerate(float_islands(model)):
        files = {**fp32, "encoder": work / f"encoder.int8.{step}.onnx"}
        onnx.save_model(quantised_from_float(model, ranges, keep_float=keep_float), str(files["encoder"]))
        hops = [int8_hop(f"onnx fp32 → int8 ({description})", runtime, outputs, judge.onnx(runtime, files), judge.validation,
                         report.max_drop) for runtime, outputs in floats.items()]
        tried.append((files, hops))
        log.info("INT8, %s: agreement %.1f %%", description, 100 * min(hop.agreement for hop in hops))
        if min(hop.agreement for hop in hops) >= AGREEMENT_AIM and all(hop.passed for hop in hops):
            break
    files, hops = max(tried, key=lambda t: (all(hop.passed for hop in t[1]), min(hop.agreement for hop in t[1])))
    _admit(report, hops)
    return files


def _write(out: Path, judge: _Judge, variants: dict[VariantName, dict[str, Path]], report: GateReport,
           options: ExportOptions, work: Path) -> Bundle:
    if options.only is not None:
        variants = {name: files for name, files in variants.items() if name == options.only}
    gate = work / "gate.json"
    gate.write_text(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    files = {"gate.json": gate}
    described: dict[VariantName, Variant] = {}
    for name, graphs in variants.items():
        # A graph that a variant does not change keeps the name of the variant that made it.
        names = {graph: f"{graph}.{'fp32' if graph == 'head' else name}.onnx" for graph in graphs}
        files.update({names[graph]: path for graph, path in graphs.items()})
        described[name] = Variant(files=names, passed=True, gate=_measured(name, report))
    manifest = Manifest(contract=judge.contract, graphs=judge.graphs, variants=described, files={}, made_with=_versions(),
                        created=datetime.now(timezone.utc).isoformat(timespec="seconds"), source=options.source)
    return write_bundle(out, manifest, files)


def _measured(variant: VariantName, report: GateReport) -> dict[str, float]:
    """The worst figures over the runtimes, for the manifest; ``gate.json`` has them all."""
    hops = [hop for hop in report.hops if hop.variant == variant]
    return {"samples": report.samples, "agreement": min(hop.agreement for hop in hops),
            "drop_points": round(max(hop.drop_points for hop in hops), 4),
            "largest_logit_difference": max(hop.largest_logit_difference for hop in hops)}


def _versions() -> dict[str, str]:
    versions = {}
    for package in MADE_WITH:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
