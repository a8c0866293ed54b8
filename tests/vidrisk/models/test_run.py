from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vidrisk.data import Sample, Table, load_table
from vidrisk.models.config import ReportSettings, TrainConfig, config_from_options, write_config
from vidrisk.models.pretrained import Labels, build_classifier, contract_from_config, resolve_config
from vidrisk.models.run import METRICS, Run, open_start
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.errors import BundleError, DataError, SettingsError


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "copy"))


@pytest.mark.parametrize("last_blocks", ["2", "0"])
def test_what_is_saved_answers_as_what_was_trained(
    backbone_folder: Callable[[str], Path], tmp_path: Path, last_blocks: str
) -> None:
    config = resolve_config(
        config_from_options(
            None, [f"lora.last_blocks={last_blocks}", "frames=3", "lora.rank=4"], backbone=str(backbone_folder("vit"))
        ),
        clips=True,
    )
    labels = Labels(targets=(Target(name="action", labels=("a", "b", "c")),), clips=True)
    trained = build_classifier(config, contract_from_config(config, labels))
    trained.adapt(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1, generator=generator)
        trained.head.standardise_by([torch.randn(9, trained.encoder.width, generator=generator)])
    run = Run(tmp_path / "run", config, labels)
    run.save(trained)
    read = Run.open(tmp_path / "run")
    assert read.config.model_dump(mode="json") == config.model_dump(mode="json")
    assert (read.labels, read.contract) == (labels, contract_from_config(config, labels))
    frames = torch.randint(0, 256, (2, 3, 64, 64, 3), dtype=torch.uint8, generator=generator)
    with torch.inference_mode():
        expected, found = trained.eval()(frames)[0][0], read.load_classifier()(frames)[0][0]
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_contract_is_resolved(tiny_run: Path) -> None:
    run = Run.open(tiny_run)
    assert (run.contract.pixel.height, run.contract.pixel.resize, run.contract.frames) == (64, "crop", 2)
    assert set(run.config.pixel) >= {"height", "width", "resize", "mean", "std", "interpolation", "crop_fraction"}
    assert resolve_config(TrainConfig(), clips=False).pixel["resize"] == "squash"
    with pytest.raises(SettingsError, match=r"pixel\.hight"):
        resolve_config(config_from_options(None, ["pixel.hight=64"]), clips=False)


def test_augmentations_are_those_that_were_asked_for_or_those_of_the_kind_of_data() -> None:
    assert resolve_config(TrainConfig(task="action"), clips=True).augment == ("flip", "zoom", "light", "still")
    assert resolve_config(TrainConfig(task="action"), clips=False).augment == ()
    assert resolve_config(TrainConfig(task="risk"), clips=False).augment == ("flip",)
    assert resolve_config(TrainConfig(task="action", augment=("flip",)), clips=True).augment == ("flip",)
    assert resolve_config(TrainConfig(task="risk", augment=()), clips=False).augment == ()


def test_the_split_is_read_back(tiny_run: Path, clip_folder: Path) -> None:
    table = Run.open(tiny_run).read_split()
    assert (
        len(table) == 24 and len(table.of_split("val")) > 0 and all(sample.path.is_file() for sample in table.samples)
    )
    assert {sample.labels["action"] for sample in table.samples} == {path.name for path in clip_folder.iterdir()}


@pytest.mark.parametrize("name", ["config.yaml", "labels.json", "head.safetensors"])
def test_an_incomplete_run_names_what_it_lacks(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"lacks {name}"):
        Run.open(copy)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.json", "{"),
        ("labels.json", json.dumps({"targets": [{"name": "action", "labels": ["only"]}], "clips": True})),
        ("labels.json", "{}"),
        ("config.yaml", "nonsense: 1"),
        ("config.yaml", "["),
        ("config.yaml", "optim: {epochs: 0}"),
    ],
)
def test_a_damaged_run_is_one_line_that_names_the_file(copy: Path, name: str, content: str) -> None:
    (copy / name).write_text(content, encoding="utf-8")
    with pytest.raises(BundleError, match=name) as caught:
        Run.open(copy)
    assert "\n" not in str(caught.value)


def test_settings_are_those_of_the_start_unless_others_are_given(copy: Path, tmp_path: Path) -> None:
    """Settings that belong to the data of the first run do not pass to the run that starts from it."""
    assert open_start(None, None) == (None, TrainConfig())
    report = ReportSettings(scheme="riskva", photos="/first", longest_answer=40, choice_weight=3.0)
    own = Run.open(copy).config.model_copy(update={"group_by": "block", "report": report, "seed": 5})
    write_config(own, copy / "config.yaml")
    run, config = open_start(str(copy), None, ["optim.epochs=7"])
    assert run == Run.open(copy) and (config.seed, config.backbone, config.optim.epochs) == (5, own.backbone, 7)
    assert (config.group_by, config.report) == (None, ReportSettings(choice_weight=3.0))
    assert open_start(copy, None, group_by="street")[1].group_by == "street"
    write_config(TrainConfig(group_by="floor", seed=6), tmp_path / "c.yaml")
    assert open_start(copy, tmp_path / "c.yaml") == (run, TrainConfig(group_by="floor", seed=6))
    with pytest.raises(BundleError, match="is not a finished run"):
        open_start(tmp_path, None)


def test_a_missing_adapter(copy: Path) -> None:
    shutil.rmtree(copy / "adapter")
    with pytest.raises(BundleError, match="adapter"):
        Run.open(copy).load_classifier()


@pytest.mark.parametrize(
    "name", ["head.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"]
)
def test_damaged_weights(copy: Path, name: str) -> None:
    (copy / name).write_bytes((copy / name).read_bytes()[:40])
    with pytest.raises(BundleError) as caught:
        Run.open(copy).load_classifier()
    assert "\n" not in str(caught.value)


def test_a_head_of_another_run(copy: Path) -> None:
    labels = json.loads((copy / "labels.json").read_text(encoding="utf-8"))
    labels["targets"][0]["labels"].append("one more")
    (copy / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    with pytest.raises(BundleError, match="does not fit the run"):
        Run.open(copy).load_classifier()


def test_a_missing_or_damaged_split(copy: Path) -> None:
    for content in (b"", b"PAR1 nonsense"):
        (copy / "split.parquet").write_bytes(content)
        with pytest.raises(BundleError, match=r"split\.parquet"):
            Run.open(copy).read_split()
    (copy / "split.parquet").unlink()
    with pytest.raises(BundleError, match=r"split\.parquet"):
        Run.open(copy).read_split()


@pytest.mark.parametrize("odd", [False, True], ids=["UTF-8", "other bytes"])
def test_the_split_keeps_names_of_any_bytes(copy: Path, tmp_path: Path, odd: bool) -> None:
    names = ["裂缝 1.png", "b.png", *([os.fsdecode(b"c\xff.png")] if odd else [])]
    samples = tuple(Sample(tmp_path / name, name, {"action": "red"}, split="train") for name in names)
    run = Run.open(copy)
    run.write_split(Table(tmp_path, "action", samples))
    assert [(s.path, s.name, s.labels, s.split) for s in run.read_split().samples] == [
        (s.path, s.name, dict(s.labels), s.split) for s in samples
    ]
    run.write_metrics({"unreadable": [{"path": name} for name in names]})
    assert [
        sample["path"] for sample in json.loads((copy / METRICS).read_text(encoding="utf-8"))["unreadable"]
    ] == names


def test_a_class_folder_whose_name_is_no_utf8_is_one_line(tmp_path: Path) -> None:
    for label in (b"\xff", b"b"):
        folder = tmp_path / os.fsdecode(label)
        folder.mkdir()
        (folder / "a.png").touch()
    with pytest.raises(DataError, match=r"label that is not UTF-8: \\xff; fix: rename the folder"):
        load_table(tmp_path, "action")
