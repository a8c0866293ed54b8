"""Writing of a bundle from admitted variants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from vidrisk.calibration.files import graph_files
from vidrisk.export.gate.coverage import describe_thresholds
from vidrisk.export.gate.judge import Files, StageJudge
from vidrisk.export.gate.race import speed_refusal
from vidrisk.export.gate.report import GateReport, Hop
from vidrisk.runtimes.contract.bundle import Bundle, Manifest, Precision, Variant, VariantName, write_bundle
from vidrisk.runtimes.contract.constants import CONSTANTS, write_constants
from vidrisk.runtimes.contract.manifest import Engines
from vidrisk.runtimes.golden import GOLDEN

MADE_WITH = ("vidrisk", "torch", "transformers", "onnx", "onnxruntime", "openvino")


def bundle_from_variants(
    out: Path,
    judge: StageJudge,
    variants: Mapping[VariantName, Files],
    precision: Mapping[VariantName, Mapping[str, Precision]],
    engines: Mapping[VariantName, Engines],
    report: GateReport,
    beside: Mapping[str, Path],
    source: dict[str, str],
) -> Bundle:
    """Write a bundle of variants that the gate has admitted.

    Args:
        out: folder to create.
        judge: holds stages, contract and constants.
        variants: files by variant and stage.
        precision: by variant and stage.
        engines: kind of engine by variant; any for a variant that is missing.
        report: the gate's measurements, including temperatures and thresholds.
        beside: further files, by their name in the bundle.
        source: origin of the model.
    """
    files = dict(beside)
    described: dict[VariantName, Variant] = {}
    for name, by_stage in variants.items():
        names: dict[str, str] = {stage: path.name for stage, path in by_stage.items()}  # variants may share a file
        files.update({file.name: file for path in by_stage.values() for file in graph_files(path)})
        described[name] = Variant(
            files=names,
            precision=dict(precision[name]),
            engines=engines.get(name, "any"),
            passed=True,
            gate=_worst_figures(report, name),
            waived=waiver_of(report, name),
            temperature=report.temperature[name],
            decision=report.decision.get(name, {}),
            **describe_thresholds(report.coverage[name]),
        )
    constants = None
    if judge.constants:
        constants = CONSTANTS
        files[CONSTANTS] = next(iter(files.values())).parent / CONSTANTS
        write_constants(files[CONSTANTS], judge.constants)
    manifest = Manifest(
        contract=judge.contract,
        stages=judge.stages,
        variants=described,
        constants=constants,
        files={},
        made_with=versions_used(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        source=source,
        golden=GOLDEN in beside,
    )
    return write_bundle(out, manifest, files)


def waiver_of(report: GateReport, variant: str) -> str:
    """Return the reasons for which the gate would have refused a variant without the exporter's waiver."""
    slow = speed_refusal(report, variant)
    return "; ".join([hop.reason for hop in report.hops if hop.variant == variant and hop.waived] + [slow] * bool(slow))


def _worst_figures(report: GateReport, variant: str) -> dict[str, float]:
    """Return the worst figures over the runtimes, for the manifest; ``gate.json`` has all of them."""
    hops = [hop for hop in report.hops if hop.variant == variant]
    return {
        "samples": min(hop.samples for hop in hops),
        "agreement": min(hop.agreement for hop in hops),
        "drop_points": round(max(hop.drop_points for hop in hops), 4),
        **_confidence(hops),
        "largest_logit_difference": max(hop.largest_logit_difference for hop in hops),
    }


def _confidence(hops: Sequence[Hop]) -> dict[str, float]:
    moved = [
        change.confidence_points for hop in hops for change in hop.changes if math.isfinite(change.confidence_points)
    ]
    return {"confidence_points": round(max(moved), 4)} if moved else {}


def versions_used() -> dict[str, str]:
    """Return the versions of the installed packages that make bundles."""
    versions = {}
    for package in MADE_WITH:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
