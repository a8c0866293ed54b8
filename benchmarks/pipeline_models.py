"""Create models for the pipeline benchmarks: runs trained on UT-Interaction, a random ViT-B/16, and their bundles.

Each is created once and kept in the work folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import DATASETS

from vidrisk.export.trained import ExportOptions
from vidrisk.jobs.export import export_run
from vidrisk.models.config import config_from_options
from vidrisk.models.pretrained import build_classifier, resolve_config
from vidrisk.models.run import METRICS, Run
from vidrisk.train.train import train_run

UT = DATASETS["ut_interaction"]
FRAMES = 8  # per clip or window
SETTINGS = (*UT.settings, f"frames={FRAMES}", "seed=0")
TRIAL_VIT: dict[str, Any] = {
    "hidden_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 768,
}
ANY_DROP = ExportOptions(int8=True, max_drop=100, allow_drop=True, search_s=0)


def train_runs(data: Path, work: Path, folds: int) -> list[Path]:
    """Train EfficientNet-Lite0 on the first folds of UT-Interaction: of ten sequences, six train, two val, two test."""
    runs = [work / f"run{fold}" for fold in range(folds)]
    for run, table in zip(runs, UT.tables(data), strict=False):
        if not (run / METRICS).is_file():
            train_run(table, config_from_options(None, list(SETTINGS)), run)
    return runs


def bundle_of(run: Path, work: Path, options: ExportOptions) -> Path:
    """Return the run's bundle; export it if it is missing."""
    bundle = work / f"{run.name}.{'int8' if options.int8 else 'fp32'}.bundle"
    if not bundle.is_dir():
        export_run(run, bundle, options)
    return bundle


def vit_run(like: Path, work: Path, *, trial: bool) -> Path:
    """Return a run with the samples and labels of ``like``, and a ViT-B/16 encoder with random weights."""
    out, backbone = work / "vit-run", work / "vit-backbone"
    if not out.is_dir():
        torch.manual_seed(0)
        tower = transformers.ViTModel(transformers.ViTConfig(**(TRIAL_VIT if trial else {})), add_pooling_layer=False)
        tower.save_pretrained(backbone)
        processor = {
            "image_processor_type": "ViTImageProcessor",
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "resample": 2,
        }
        (backbone / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
        source = Run.open(like)
        options = [f"backbone={backbone}", f"frames={source.contract.frames}", "lora.last_blocks=0", "seed=0"]
        run = Run(out, resolve_config(config_from_options(None, options), clips=True), source.labels)
        run.save(build_classifier(run.config, run.contract))
        run.write_split(source.read_split())
    return out
