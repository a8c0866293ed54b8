"""Tests of encoders that receive frames and their difference images, from training to inference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vidrisk.data import load_table
from vidrisk.export.trained import ExportOptions
from vidrisk.inference.model import open_classifier
from vidrisk.jobs.evaluate import evaluate
from vidrisk.jobs.export import export_run
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.models.config import config_from_options
from vidrisk.models.run import Run
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.registry import file_runtimes
from vidrisk.runtimes.tensorrt.build.builder import BuildOptions
from vidrisk.runtimes.tensorrt.build.engines import build_engines
from vidrisk.runtimes.tensorrt.cache import EngineStore
from vidrisk.train.train import train_run

SMALL = (
    "rgb_diff=true",
    "frames=4",
    "pixel={height: 64, width: 64}",
    "lora.rank=4",
    "lora.last_blocks=2",
    "optim.epochs=2",
    "optim.batch_size=6",
    "precision=fp32",
    "views=2",
    "head.kind=segments",
    "augment=[]",
)


@pytest.mark.parametrize(
    ("backbone", "assignment"),
    [("efficientnet-lite0", "frames=3"), ("efficientnet-lite0", "frames=2"), ("videomae", "frames=4")],
)
def test_where_there_are_no_pairs(
    backbone_folder: Callable[[str], Path], clip_folder: Path, tmp_path: Path, backbone: str, assignment: str
) -> None:
    name = backbone if backbone.startswith("efficientnet") else str(backbone_folder(backbone))
    config = config_from_options(None, [*SMALL, assignment], backbone=name)
    with pytest.raises(
        SettingsError, match=r"rgb_diff of clips of . frames .* allowed: clips of an even number .* fix: leave"
    ):
        train_run(load_table(clip_folder, "action"), config, tmp_path / "run")


@pytest.mark.slow
def test_from_train_to_infer_and_to_an_engine(clip_folder: Path, tmp_path: Path) -> None:
    table = load_table(clip_folder, "action")
    run = train_run(table, config_from_options(None, SMALL), tmp_path / "run")
    assert run.config.rgb_diff and run.load_classifier().encoder.group == 2
    options = ExportOptions(int8=True, fp16=True, target="gpu", max_drop=10, max_confidence_drop=10, search_s=5)
    bundle, report = export_run(run.root, tmp_path / "b", options)
    assert bundle.contract.digest == Run.open(run.root).contract.digest
    encoder, head = bundle.stages
    assert (encoder.per, encoder.group, head.per) == ("group", 2, "window")
    assert encoder.inputs[0].shape == ("batch", 2, 64, 64, 3) and head.inputs[0].shape == ("batch", 2, 2560)
    assert all(
        hop.passed and hop.largest_logit_difference < 1e-3 for hop in report.hops if hop.variant in ("merged", "fp32")
    )
    with open_classifier(run.root) as classifier:
        expected = evaluate(classifier, table, InferSettings(workers=1)).probabilities["action"]
    for runtime in file_runtimes():
        with open_classifier(bundle.root, runtime=runtime, variant="fp32", threads=1) as classifier:
            found = evaluate(classifier, table, InferSettings(workers=1))
        np.testing.assert_allclose(found.probabilities["action"], expected, atol=1e-4, err_msg=runtime)
    name = bundle.passed[-1]
    assert name in ("int8", "mixed", "fp16")
    ahead = BuildOptions(compute_capabilities=("8.6",))
    assert (
        len(build_engines(bundle, ahead, kind="tensorrt-rtx", variants=[name], store=EngineStore(tmp_path / "engines")))
        == 2
    )
