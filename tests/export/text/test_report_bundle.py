"""Tests of bundles that write reports: complete and sealed with the gate's report inside, or not written at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gate_cases import END, FORM, LEVELS, PIECES, STAGE, World, make_world, write_vision

from vidrisk.export.gate.report import GateReport
from vidrisk.export.text.gate_options import GraphVariant
from vidrisk.export.text.limits import FieldLimits, TokenLimits
from vidrisk.export.text.packing import INT8, pack_text
from vidrisk.export.text.report_bundle import ReportModel, ReportVariant, ReportWords, write_report_bundle
from vidrisk.export.text.text_gate import gate_reports
from vidrisk.export.text.visual_tokens import visual_tokens
from vidrisk.runtimes import Contract, PixelSpec, Target
from vidrisk.runtimes.contract.bundle import Bundle
from vidrisk.runtimes.contract.errors import BundleError, GateRefused, SettingsError
from vidrisk.runtimes.contract.manifest import TEXT

Judged = tuple[World, GateReport, list[ReportVariant], ReportModel]
SCHEME = json.dumps({"name": "three", "levels": list(LEVELS)})


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    world = make_world(
        tmp_path_factory.mktemp("world"),
        rounded=TokenLimits(kl=0.3),
        max_drop=100,
        fields=FieldLimits(agreement=0.0, length_drift=10),
    )
    pack_text(world.graph, world.file("text.int8.onnx"), INT8)
    vision = write_vision(world.file("vision.fp32.onnx"))
    report = gate_reports(
        world.reference(),
        [
            GraphVariant("fp32", world.graph, visual_tokens(STAGE, vision, world.photos)),
            GraphVariant("int8", world.file("text.int8.onnx")),
        ],
        world.samples,
        world.options,
    )
    variants = [
        ReportVariant("fp32", {"vision": vision}, world.graph, {"vision": "fp32", TEXT: "fp32"}),
        ReportVariant(
            "int8", {"vision": vision}, world.file("text.int8.onnx"), {"vision": "fp32", TEXT: "int8-weight-only"}
        ),
    ]
    contract = Contract(
        task="report", pixel=PixelSpec(4, 4), targets=(Target(name="level", labels=LEVELS, ordered=True),)
    )
    words = ReportWords(world.file("tokenizer.json"), world.embeddings, PIECES, (END,), 256, 60, scheme=SCHEME)
    return world, report, variants, ReportModel(contract, (STAGE,), words, source={"run": "runs/defects"})


def test_a_bundle_holds_all_that_reports_need(judged: Judged, tmp_path: Path) -> None:
    world, report, variants, model = judged
    write_report_bundle(tmp_path / "reports", model, variants, report)
    bundle = Bundle.open(tmp_path / "reports")
    manifest = bundle.manifest
    assert set(manifest.files) == {
        "vision.fp32.onnx",
        "text.fp32.onnx",
        "text.int8.onnx",
        "embeddings.npy",
        "tokenizer.json",
        "scheme.json",
        "gate.json",
        "gate.html",
    }
    assert manifest.report is not None and manifest.report.ends == (END,) and manifest.report.scheme == "scheme.json"
    assert (bundle.root / "scheme.json").read_text(encoding="utf-8") == SCHEME and manifest.golden is False
    int8 = manifest.variants["int8"]
    assert (
        int8.files == {"vision": "vision.fp32.onnx", TEXT: "text.int8.onnx"}
        and int8.lowest_precision == "int8-weight-only"
    )
    assert (
        int8.temperature == report.temperature["int8"] and set(int8.threshold) == {FORM.level} and int8.coverage == 0.9
    )
    assert 0 < int8.gate["kl"] < 0.3 and int8.gate["complete"] == 1 and int8.gate["samples"] == len(world.samples)
    told = json.loads((bundle.root / "gate.json").read_text(encoding="utf-8"))
    assert told["precision"]["int8"][TEXT] == "int8-weight-only" and told["source"] == {"run": "runs/defects"}
    assert "Shipped:" in (bundle.root / "gate.html").read_text(encoding="utf-8")


def test_what_the_gate_has_not_admitted_is_not_written(judged: Judged, tmp_path: Path) -> None:
    world, report, variants, model = judged
    out = tmp_path / "reports"
    with pytest.raises(GateRefused, match="not admitted mixed"):
        write_report_bundle(out, model, [*variants, replace(variants[1], name="mixed")], report)
    with pytest.raises(GateRefused, match="not admitted any variant"):
        write_report_bundle(out, model, [], report)
    with pytest.raises(SettingsError, match="level 'level' is not a target of the contract; allowed: grade"):
        other = model.contract.model_copy(update={"targets": (Target(name="grade", labels=LEVELS),)})
        write_report_bundle(out, replace(model, contract=other), variants, report)
    (tmp_path / "elsewhere").mkdir()
    twin = tmp_path / "elsewhere" / "text.fp32.onnx"
    twin.write_bytes(world.graph.read_bytes())
    with pytest.raises(SettingsError, match="in one bundle; allowed: graphs of different names"):
        write_report_bundle(out, model, [variants[0], replace(variants[1], text=twin)], report)
    with pytest.raises(BundleError, match="precisions of the stages text"):
        write_report_bundle(out, model, [replace(variants[0], precision={TEXT: "fp32"})], report)
    assert not out.exists()


def test_a_bundle_that_answers_questions_alone_has_no_scheme(judged: Judged, tmp_path: Path) -> None:
    world, _, variants, model = judged
    report = gate_reports(
        world.reference(), [GraphVariant("fp32", world.graph)], world.samples, replace(world.options, form=None)
    )
    contract = model.contract.model_copy(update={"targets": ()})
    asked = replace(model, contract=contract, words=replace(model.words, scheme=None, system="Answer."))
    bundle = write_report_bundle(tmp_path / "asked", asked, variants[:1], report)
    part = bundle.manifest.report
    assert (
        part is not None
        and part.scheme is None
        and part.system == "Answer."
        and "scheme.json" not in bundle.manifest.files
    )
    assert bundle.manifest.variants["fp32"].temperature == {} and np.load(bundle.root / part.embeddings).shape[1] == 64
