"""From admitted variants of a model that writes reports to a bundle on disk."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from vidrisk.calibration.files import graph_files
from vidrisk.export.gate.coverage import described_thresholds
from vidrisk.export.gate.report import GateReport
from vidrisk.export.gate.text_page import text_gate_page
from vidrisk.export.pack import versions_used
from vidrisk.runtimes.contract.bundle import (
    Bundle,
    Manifest,
    Precision,
    Variant,
    VariantName,
    check_vacant,
    write_bundle,
)
from vidrisk.runtimes.contract.constants import CONSTANTS, write_constants
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import GateRefused, SettingsError
from vidrisk.runtimes.contract.manifest import TEXT, Engines, ReportPart
from vidrisk.runtimes.contract.report import ChatPieces
from vidrisk.runtimes.contract.stages import Stage
from vidrisk.runtimes.runner import Array

SCHEME, TOKENIZER, EMBEDDINGS = "scheme.json", "tokenizer.json", "embeddings.npy"


@dataclass(frozen=True)
class ReportVariant:
    """Files of a variant.

    Attributes:
        stages: ONNX file by stage; variants may share one.
        text: the text graph.
        precision: by stage, and of ``TEXT``.
    """

    name: VariantName
    stages: Mapping[str, Path]
    text: Path
    precision: Mapping[str, Precision]
    engines: Engines = "any"


@dataclass(frozen=True)
class ReportWords:
    """How a bundle reads and writes: what ``ReportPart`` holds, and the files that it names.

    Attributes:
        tokenizer, embeddings: files, wherever they lie.
        scheme: content of scheme.json; None where the model answers questions alone.
        system: what a conversation begins with where there is no scheme.
        ends: ids of the tokens that end an answer.
        positions, answer_tokens: most tokens of a sequence, and of an answer.
    """

    tokenizer: Path
    embeddings: Path
    pieces: ChatPieces
    ends: tuple[int, ...]
    positions: int
    answer_tokens: int
    scheme: str | None = None
    system: str | None = None

    @property
    def part(self) -> ReportPart:
        return ReportPart(
            scheme=None if self.scheme is None else SCHEME,
            system=self.system,
            pieces=self.pieces,
            tokenizer=TOKENIZER,
            embeddings=EMBEDDINGS,
            ends=self.ends,
            positions=self.positions,
            answer_tokens=self.answer_tokens,
        )


@dataclass(frozen=True)
class ReportModel:
    """A model that writes reports.

    Attributes:
        stages: that give visual tokens.
        constants: values of their constants, by name.
        source: where the model came from.
    """

    contract: Contract
    stages: tuple[Stage, ...]
    words: ReportWords
    constants: Mapping[str, Array] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)


def write_report_bundle(out: Path, model: ReportModel, variants: Sequence[ReportVariant], report: GateReport) -> Bundle:
    """Write a bundle of variants that the gate has admitted, with the gate's report in it.

    Args:
        out: folder to make; it must not exist.
        report: of ``gate_reports``, on just these variants.

    Raises:
        GateRefused: a variant that the gate has not admitted.
        SettingsError: two files of one name, or a level that is no target of the contract.
        BundleError: ``out`` exists, or the files make no bundle.
    """
    check_vacant(out)
    refused = [variant.name for variant in variants if variant.name not in report.shipped]
    if refused or not variants:
        raise GateRefused(
            f"the gate has not admitted {refused[0] if refused else 'any variant'}",
            report=report,
            fix="judge all variants before they are written",
        )
    foreign = {target for fits in report.coverage.values() for target in fits} - {
        target.name for target in model.contract.targets
    }
    if foreign:
        raise SettingsError(
            f"level {min(foreign)!r} is no target of the contract",
            allowed=", ".join(target.name for target in model.contract.targets) or "no level without a scheme",
        )
    report.precision = {variant.name: dict(variant.precision) for variant in variants}
    report.source = {**report.source, **model.source}
    with tempfile.TemporaryDirectory(prefix="vidrisk-bundle-") as work:
        files = _named_files(variants) | _written_files(model, report, out.name, Path(work))
        manifest = Manifest(
            contract=model.contract,
            stages=model.stages,
            report=model.words.part,
            files={},
            golden=False,
            variants={variant.name: _described(variant, report) for variant in variants},
            constants=CONSTANTS if model.constants else None,
            made_with=versions_used(),
            source=dict(model.source),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        return write_bundle(out, manifest, files)


def _named_files(variants: Sequence[ReportVariant]) -> dict[str, Path]:
    """Files of all graphs by their names in the bundle: graphs name the files of their weights, so names stay.

    Raises:
        SettingsError: two files of one name.
    """
    found: dict[str, Path] = {}
    for variant in variants:
        for path in (*variant.stages.values(), variant.text):
            for file in graph_files(path):
                if found.setdefault(file.name, file) != file:
                    raise SettingsError(
                        f"{found[file.name]} and {file} in one bundle", allowed="graphs of different names"
                    )
    return found


def _written_files(model: ReportModel, report: GateReport, title: str, work: Path) -> dict[str, Path]:
    words = model.words
    texts = {
        "gate.json": json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "gate.html": text_gate_page(report, title),
    }
    if words.scheme is not None:
        texts[SCHEME] = words.scheme
    for name, text in texts.items():
        (work / name).write_text(text, encoding="utf-8")
    files = {TOKENIZER: words.tokenizer, EMBEDDINGS: words.embeddings, **{name: work / name for name in texts}}
    if model.constants:
        files[CONSTANTS] = work / CONSTANTS
        write_constants(files[CONSTANTS], model.constants)
    return files


def _described(variant: ReportVariant, report: GateReport) -> Variant:
    name = variant.name
    files = {**{stage: path.name for stage, path in variant.stages.items()}, TEXT: variant.text.name}
    waived = next(verdict.reason for verdict in report.verdicts if verdict.variant == name and verdict.shipped)
    return Variant(
        files=files,
        precision=dict(variant.precision),
        engines=variant.engines,
        passed=True,
        waived=waived,
        gate=measured_figures(report, name),
        temperature=dict(report.temperature.get(name, {})),
        **described_thresholds(report.coverage.get(name, {})),
    )


def measured_figures(report: GateReport, variant: str) -> dict[str, float]:
    """Return the figures of a variant for the manifest; ``gate.json`` has them all."""
    hop = [hop for hop in report.text_hops if hop.variant == variant and hop.tokens is not None][-1]
    assert hop.tokens is not None
    found = {
        "samples": float(hop.samples),
        "kl": hop.tokens.kl,
        "top1": hop.tokens.top1,
        "perplexity_rise": hop.tokens.perplexity_rise,
    }
    if hop.fields is not None:
        found |= {
            "complete": hop.fields.complete_after,
            "agreement": hop.fields.level_agreement,
            "drop_points": hop.fields.drop_points,
        }
    return {key: round(value, 6) for key, value in found.items() if math.isfinite(value)}
