"""A classifier with a language model goes from training to inference with packed weights in its text stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from small_llama import FAMILY, LAYERS

from vidrisk.bench.benchmark import run_bench
from vidrisk.data import load_table
from vidrisk.export.trained import ExportOptions
from vidrisk.inference.model import open_classifier
from vidrisk.jobs.evaluate import evaluate
from vidrisk.jobs.export import export_run
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.models.config import config_from_options
from vidrisk.models.families import FAMILIES
from vidrisk.runtimes.golden import read_golden
from vidrisk.runtimes.registry import file_runtimes
from vidrisk.train.train import train_run
from vidrisk.verify.replay import verify_bundle

SETTINGS = {
    "frames": 4,
    "lora.last_blocks": 0,
    "optim.epochs": 12,
    "optim.batch_size": 6,
    "optim.head_lr": 0.01,
    "precision": "fp32",
}
PRODUCTS = 7 * LAYERS


@pytest.mark.slow(minutes=2)
def test_from_train_to_infer(clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "small-llama", FAMILY)
    table = load_table(clip_folder, "action")
    run = train_run(table, config_from_options(backbone="small-llama", settings=SETTINGS), tmp_path / "run")
    # Its stages are so small that they are no faster than in floating point: allow_drop.
    options = ExportOptions(
        int8=True,
        max_drop=10,
        max_confidence_drop=20,
        search_s=5,
        allow_drop=True,
        also=("openvino",),
        quantize=frozenset(("vision", "text")),
    )
    bundle, report = export_run(run.root, tmp_path / "b", options)
    assert [(stage.name, stage.constants) for stage in bundle.stages] == [
        ("vision", ()),
        ("text", ("before", "after")),
        ("head", ()),
    ]
    name = bundle.passed[-1]
    precision = bundle.manifest.variants[name].precision
    assert precision["vision"] in ("int8", "mixed") and precision["head"] == "fp32"
    assert precision["text"] in ("int4", "int8-weight-only")
    floats = any(row["precision"] == "float" for row in report.search)
    assert name == (
        "mixed" if floats or not set(precision.values()) <= {"int8", "int8-weight-only", "fp32"} else "int8"
    )
    assert bundle.manifest.variants[name].engines == "processor"

    graph = onnx.load(str(bundle.path("text", name))).graph
    kinds = [node.op_type for node in graph.node]
    packed = kinds.count("MatMulNBits")
    assert (
        packed
        + sum(
            kind == "MatMul" and node.input[1] in {t.name for t in graph.initializer}
            for kind, node in zip(kinds, graph.node, strict=True)
        )
        == PRODUCTS
        and packed > PRODUCTS // 2
    )
    assert bundle.path("text", name).stat().st_size < 0.6 * bundle.path("text", "fp32").stat().st_size
    recipe = report.calibration["text: recipe"]
    assert recipe.startswith(precision["text"].removesuffix("-weight-only")) and "weights in groups of" in recipe
    assert recipe in (bundle.root / "gate.html").read_text(encoding="utf-8")
    assert {hop.runtime for hop in report.hops if hop.variant == name} == set(file_runtimes())
    assert all(hop.passed for hop in report.hops)
    assert (bundle.root / f"text.{name}.bin").stat().st_size < 0.5 * (bundle.root / "text.fp32.bin").stat().st_size

    with open_classifier(run.root) as classifier:
        expected = evaluate(classifier, table, InferSettings(workers=1))
    assert expected.metrics["action"].top1 > 0.6  # it has learnt
    golden = read_golden(bundle)
    assert golden is not None
    for runtime in file_runtimes():
        for variant, tolerance in (("fp32", 1e-4), (name, 0.1)):
            with open_classifier(bundle.root, runtime=runtime, variant=variant, threads=1) as classifier:
                found = evaluate(classifier, table, InferSettings(workers=1)).probabilities["action"]
                np.testing.assert_allclose(
                    found, expected.probabilities["action"], atol=tolerance, err_msg=f"{runtime} {variant}"
                )
                logits = classifier.logits_from_frames(golden.frames, 32)["action"]
                judged = golden.logits(variant)["action"]  # by the gate, on the reference
                np.testing.assert_allclose(
                    logits, judged, atol=(1e-4 if runtime == "onnxruntime" or variant == "fp32" else 0.2)
                )
    verified = verify_bundle(bundle.root)
    assert not verified.faults and {(row.runtime, row.variant) for row in verified.rows} == {
        (runtime, variant) for runtime in file_runtimes() for variant in bundle.passed
    }
    (row,) = run_bench(bundle.root, runtime="onnxruntime", variant=name, threads=1).rows
    assert not row.problem and row.throughput is not None and row.memory_mb
