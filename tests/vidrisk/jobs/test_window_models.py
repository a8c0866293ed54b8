"""Tests of encoders that see whole windows, from training to inference: real architectures at small size."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backbones import BACKBONES, WINDOW, WINDOW_TRANSFORMERS
from PIL import Image

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
    f"frames={WINDOW}",
    "lora.rank=4",
    "lora.last_blocks=2",
    "optim.epochs=2",
    "optim.batch_size=6",
    "optim.head_lr=0.01",
    "precision=fp32",
    "views=2",
)


@pytest.mark.slow
@pytest.mark.parametrize("family", WINDOW_TRANSFORMERS)
def test_from_train_to_infer(
    backbone_folder: Callable[[str], Path],
    clip_folder: Path,
    tmp_path: Path,
    family: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "torch")
    table = load_table(clip_folder, "action")
    run = train_run(table, config_from_options(None, SMALL, backbone=str(backbone_folder(family))), tmp_path / "run")
    adapted = run.load_classifier().encoder
    assert adapted.sees_windows
    lora = [name for name, _ in adapted.named_parameters() if "lora_A" in name]
    assert len(lora) == 2 * BACKBONES[family].lora  # those of attention and MLP, in the last two blocks
    options = ExportOptions(int8=True, fp16=True, target="gpu", max_drop=10, max_confidence_drop=5, search_s=5)
    bundle, report = export_run(run.root, tmp_path / "b", options)
    assert bundle.contract.digest == Run.open(run.root).contract.digest
    encoder, head = bundle.stages
    assert (encoder.per, head.per) == ("window", "window")
    assert encoder.inputs[0].shape == ("batch", WINDOW, 64, 64, 3)
    assert all(
        hop.passed and hop.largest_logit_difference < 1e-3 for hop in report.hops if hop.variant in ("merged", "fp32")
    )
    name = bundle.passed[-1]
    assert bundle.manifest.variants[name].precision == {"encoder": name, "head": "fp32"} and name in ("int8", "mixed")
    assert any(library.startswith("tensorrt-rtx") for library in report.parsed_by)
    with open_classifier(run.root) as classifier:
        expected = evaluate(classifier, table, InferSettings(workers=1)).probabilities["action"]
    assert (
        min(hop.worst_cosine for hop in report.hops if hop.variant == name) > 0.98
    )  # of the features, on every runtime
    judged = {
        hop.runtime for hop in report.hops if hop.variant == name
    }  # OpenVINO refuses FP16-typed INT8 without VNNI
    for runtime in file_runtimes():
        for variant, tolerance in (("fp32", 1e-4), *[(name, 0.05)] * (runtime in judged)):
            with open_classifier(bundle.root, runtime=runtime, variant=variant, threads=1) as classifier:
                found = evaluate(classifier, table, InferSettings(workers=1))
            np.testing.assert_allclose(
                found.probabilities["action"], expected, atol=tolerance, err_msg=f"{runtime} {variant}"
            )
    ahead = BuildOptions(compute_capabilities=("8.6",))
    built = build_engines(bundle, ahead, kind="tensorrt-rtx", variants=[name], store=EngineStore(tmp_path / "engines"))
    assert len(built) == 2


@pytest.mark.slow
@pytest.mark.parametrize("family", WINDOW_TRANSFORMERS)
def test_a_head_learns_on_a_frozen_encoder(
    backbone_folder: Callable[[str], Path], clip_folder: Path, tmp_path: Path, family: str
) -> None:
    table = load_table(clip_folder, "action")
    config = config_from_options(None, (*SMALL, "lora.last_blocks=0"), backbone=str(backbone_folder(family)))
    run = train_run(table, config, tmp_path / "run")
    assert not (run.root / "adapter").exists()
    with open_classifier(run.root) as classifier:
        learned = evaluate(classifier, table, InferSettings(workers=1))
    assert learned.metrics["action"].top1 == 1


def test_timesformer_takes_a_photo_for_a_window_of_one_frame(
    backbone_folder: Callable[[str], Path], clips: Callable[..., Any], tmp_path: Path
) -> None:
    for label, at in (("crack", 0), ("ok", 30)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(8):
            pixels = clips(1, seed=number)[0, 0] // 8 + at * 6
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    table = load_table(tmp_path / "photos", "risk")
    small = ("lora.rank=4", "lora.last_blocks=1", "optim.epochs=3", "optim.batch_size=4", "optim.head_lr=0.01")
    config = config_from_options(None, small, task="risk", backbone=str(backbone_folder("timesformer")))
    run = train_run(table, config, tmp_path / "run")
    with open_classifier(run.root) as classifier:
        assert classifier.contract.time is None
        assert evaluate(classifier, table, InferSettings(workers=1)).metrics["defect"].top1 == 1


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("head.kind=segments", "head 'segments' behind an encoder that sees whole windows; allowed: auto, linear, mlp"),
        ("frames=3", "windows of 3 frames for backbone .* allowed: clips, multiples of 2"),
    ],
)
def test_what_a_window_encoder_cannot_do(
    backbone_folder: Callable[[str], Path], clip_folder: Path, tmp_path: Path, assignment: str, said: str
) -> None:
    config: Any = config_from_options(None, (*SMALL, assignment), backbone=str(backbone_folder("videomae")))
    with pytest.raises(SettingsError, match=said):
        train_run(load_table(clip_folder, "action"), config, tmp_path / "run")
