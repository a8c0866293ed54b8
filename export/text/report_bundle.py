"""Writing of a bundle from admitted variants of a model that writes reports."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from vidrisk.calibration.files import graph_files
from vidrisk.export.gate.coverage import describe_thresholds
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
    """How a bundle reads and writes: the content of ``ReportPart``, and its files.

    Attributes:
        tokenizer, embeddings: paths of the files.
        scheme: content of scheme.json; None if the model only answers questions.
        system: beginning of a conversation if there is no scheme.
        ends: ids of the tokens that end an answer.
        positions, answer_tokens: limits of a sequence, and of an answer, in tokens.
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
        stages: that compute visual tokens.
        constants: values of their constants, by name.
        source: origin of the model.
    """

    contract: Contract
    stages: tuple[Stage, ...]
    words: ReportWords
    constants: Mapping[str, Array] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)


def write_report_bundle(out: Path, model: ReportModel, variants: Sequence[ReportVariant], report: GateReport) -> Bundle:
    """Write a bundle of variants that the gate has admitted, including the gate's report.

    Args:
        out: folder to create; it must not exist.
        model: the model.
        variants: to write.
        report: of ``gate_reports``, on exactly these variants.

    Raises:
        GateRefused: a variant that the gate has not admitted.
        SettingsError: two files have the same name, or a level is not a target of the contract.
        BundleError: ``out`` exists, or the files do not make a bundle.
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
            f"level {min(foreign)!r} is not a target of the contract",
            allowed=", ".join(target.name for target in model.contract.targets) or "no level without a scheme",
        )
    report.precision = {variant.name: dict(variant.precision) for variant in variants}
    report.source = {**report.source, **model.source}
    with tempfile.TemporaryDirectory(prefix="vidrisk-bundle-") as work:
        files = _files_by_name(variants) | _write_files(model, report, out.name, Path(work))
        manifest = Manifest(
            contract=model.contract,
            stages=model.stages,
            report=model.words.part,
            files={},
            golden=False,
            variants={variant.name: _describe(variant, report) for variant in variants},
            constants=CONSTANTS if model.constants else None,
            made_with=versions_used(),
            source=dict(model.source),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        return write_bundle(out, manifest, files)


def _files_by_name(variants: Sequence[ReportVariant]) -> dict[str, Path]:
    """Return the files of all graphs by their names in the bundle.

    Names are kept, since graphs refer to the files of their weights by name.

    Raises:
        SettingsError: two files have the same name.
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


def _write_files(model: ReportModel, report: GateReport, title: str, work: Path) -> dict[str, Path]:
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


def _describe(variant: ReportVariant, report: GateReport) -> Variant:
    name = variant.name
    files = {**{stage: path.name for stage, path in variant.stages.items()}, TEXT: variant.text.name}
    waived = next(verdict.reason for verdict in report.verdicts if verdict.variant == name and verdict.shipped)
    return Variant(
        files=files,
        precision=dict(variant.precision),
        engines=variant.engines,
        passed=True,
        waived=waived,
        gate=manifest_figures(report, name),
        temperature=dict(report.temperature.get(name, {})),
        **describe_thresholds(report.coverage.get(name, {})),
    )


def manifest_figures(report: GateReport, variant: str) -> dict[str, float]:
    """Return the figures of a variant for the manifest; ``gate.json`` has all of them."""
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
