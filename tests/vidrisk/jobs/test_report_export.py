"""Tests of exporting a report run through the gate to a bundle, and of writing reports with that bundle."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from backbones import EMBEDDED
from trained_reporters import report_config, write_cases
from vlms import save_language_model

from vidrisk.export.trained import ExportOptions
from vidrisk.jobs.report_export import export_reports
from vidrisk.models.run import Run
from vidrisk.runtimes.contract.bundle import Bundle
from vidrisk.runtimes.contract.errors import BundleError, DataError, GateRefused, SettingsError
from vidrisk.runtimes.contract.manifest import TEXT
from vidrisk.train.train_data import train_data

pytestmark = pytest.mark.slow(minutes=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("reports")
    (root / "language").mkdir()
    table, scheme = write_cases(root / "data", 24) if (root / "data").mkdir() is None else (root, root)
    backbone = f"compose:{EMBEDDED}+{save_language_model(root / 'language', 'LlamaForCausalLM')}"
    config = report_config(backbone, "compose", "optim.epochs=4", "lora.rank=16", "optim.lora_lr=0.02", scheme=scheme)
    return train_data(table, config, root / "run")


@pytest.fixture(scope="module")
def bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    options = ExportOptions(int8=True, max_drop=100, allow_drop=True, search_s=20)
    made, report = export_reports(run.root, tmp_path_factory.mktemp("bundles") / "reports.bundle", options)
    assert [hop.kind for hop in report.text_hops][:3] == ["prompts", "exact", "exact"]
    assert all(hop.passed for hop in report.text_hops)
    return made


def test_a_bundle_holds_what_a_device_needs(bundle: Bundle, run: Run) -> None:
    manifest = Bundle.open(bundle.root).manifest
    assert manifest.report is not None and manifest.contract == run.contract
    assert set(manifest.variants) == {"fp32", "int8"} and set(manifest.variants["int8"].files) == {"vision", TEXT}
    assert manifest.variants["int8"].precision[TEXT] in ("int4", "int8-weight-only")
    assert manifest.report.pieces == run.load_reporter().chat.pieces and manifest.report.positions >= 512
    assert (bundle.root / "gate.html").is_file() and manifest.source["digest"] == run.digest
    small, large = (
        sum(manifest.files[name].bytes for name in manifest.variants[variant].files.values())
        for variant in ("int8", "fp32")
    )
    assert small < 0.6 * large


def test_floating_point_alone(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the extra gguf is not installed")
    made, report = export_reports(
        run.root, tmp_path / "plain.bundle", ExportOptions(max_drop=100), gguf=tmp_path / "text.gguf"
    )
    assert (tmp_path / "text.gguf").read_bytes()[:4] == b"GGUF"
    assert list(made.manifest.variants) == ["fp32"] and report.shipped == ("fp32",)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (ExportOptions(target="gpu", fp16=True), "a target"),
        (ExportOptions(int8=True, qat_steps=2), "steps of QAT"),
        (ExportOptions(also=("openvino",)), "files of OpenVINO"),
    ],
)
def test_options_that_make_no_sense(run: Run, tmp_path: Path, options: ExportOptions, reason: str) -> None:
    with pytest.raises(SettingsError, match=f"{reason}.* of a model that writes"):
        export_reports(run.root, tmp_path / "b.bundle", options)


def test_a_wrong_adapter_is_refused_and_leaves_a_page(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vidrisk.jobs import report_export

    merge = report_export.merge_trained

    def twice(model):  # type: ignore[no-untyped-def]
        made = merge(model)
        layer = made.backbone.decoder.layers[0].self_attn.q_proj
        layer.weight.data = layer.weight.data * 1.05
        return made

    monkeypatch.setattr(report_export, "merge_trained", twice)
    with pytest.raises(GateRefused, match=r"adapter → merged.*\(see b.bundle.refused.html\)"):
        export_reports(run.root, tmp_path / "b.bundle", ExportOptions())
    assert (
        "adapter" in (tmp_path / "b.bundle.refused.html").read_text(encoding="utf-8")
        and not (tmp_path / "b.bundle").exists()
    )


def test_data_that_are_gone_or_others(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.root, tmp_path / "run")
    record = (run.root / "data.json").read_text(encoding="utf-8")
    table, _ = write_cases(tmp_path, 20)
    (tmp_path / "run" / "data.json").write_text(record.replace(str(run.root.parent / "data" / "cases.csv"), str(table)))
    with pytest.raises(DataError, match="other data than the run was trained on"):
        export_reports(tmp_path / "run", tmp_path / "b.bundle", ExportOptions())
    (tmp_path / "run" / "data.json").write_text("{}")
    with pytest.raises(BundleError, match=r"data\.json cannot be read"):
        export_reports(tmp_path / "run", tmp_path / "b.bundle", ExportOptions())
