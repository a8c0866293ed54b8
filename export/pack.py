"""From admitted variants to a bundle on disk."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import onnx

from vidrisk.calibration.files import graph_files
from vidrisk.export.gate import speed_refusal
from vidrisk.export.judge import Files, StageJudge
from vidrisk.export.macs import macs_from_onnx
from vidrisk.export.report import GateReport
from vidrisk.runtimes.bundle import Bundle, Manifest, Variant, VariantName, write_bundle

MADE_WITH = ("vidrisk", "torch", "transformers", "onnx", "onnxruntime", "openvino")


def bundle_from_variants(out: Path, judge: StageJudge, variants: Mapping[VariantName, Files], report: GateReport,
                         beside: Mapping[str, Path], source: dict[str, str]) -> Bundle:
    """Write a bundle of variants that the gate has admitted.

    Args:
        report: what the gate measured on them; it names their temperatures.
        beside: further files, by their name in the bundle.
        source: where the model came from.
    """
    files = dict(beside)
    described: dict[VariantName, Variant] = {}
    for name, graphs in variants.items():
        names: dict[str, str] = {graph: path.name for graph, path in graphs.items()}  # variants may share a file
        files.update({file.name: file for path in graphs.values() for file in graph_files(path)})
        described[name] = Variant(files=names, passed=True, gate=_measured(report, name), waived=waived_of(report, name),
                                  temperature=report.temperature[name])
    any_variant = next(iter(variants.values()))  # precision changes no count
    counted = {name: graph.model_copy(update={"macs": macs_from_onnx(onnx.load(str(any_variant[name])))})
               for name, graph in judge.graphs.items()}
    manifest = Manifest(contract=judge.contract, graphs=counted, variants=described, files={}, made_with=_versions(),
                        created=datetime.now(timezone.utc).isoformat(timespec="seconds"), source=source)
    return write_bundle(out, manifest, files)


def waived_of(report: GateReport, variant: str) -> str:
    """What the gate would have refused in a variant, had the exporter not insisted."""
    slow = speed_refusal(report, variant)
    return "; ".join([hop.reason for hop in report.hops if hop.variant == variant and hop.waived] + [slow] * bool(slow))


def _measured(report: GateReport, variant: str) -> dict[str, float]:
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
