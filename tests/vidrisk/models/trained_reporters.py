"""Runs of models that write reports: photos whose colour shows the severity, and a few real training steps."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vidrisk.models.config import TrainConfig, config_from_options

SCHEME = """
name: colours
language: en
levels:
  - {name: minor, severity: 0}
  - {name: severe, severity: 100}
fields:
  - {name: advice, label: advice, max_chars: 24}
  - {name: level, label: level, kind: level, required: true}
  - {name: defect, label: defect, kind: choice, choices: [crack, rust]}
text_field: advice
prompts: {system: "Say how bad it is.", photos: "What is it? {count}", text: "{text}"}
"""
COLOURS = {"minor": (60, 60, 190), "severe": (200, 50, 50)}
SPLITS = ("train", "train", "train", "val", "train", "test")
COMMON = (
    "pixel.height=64",
    "pixel.width=64",
    "lora.rank=4",
    "lora.last_blocks=null",
    "optim.epochs=3",
    "optim.batch_size=6",
    "optim.lora_lr=0.01",
    "precision=fp32",
    "trackers=[]",
)
SIZE = {"qwen2_5_vl": ("pixel.height=84", "pixel.width=56")}


def write_photo_of(path: Path, level: str, number: int) -> None:
    noise = np.random.default_rng(number).integers(-25, 25, (80, 60, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.array(COLOURS[level]) + noise, 0, 255).astype(np.uint8)).save(path)


def write_cases(folder: Path, count: int = 24) -> tuple[Path, Path]:
    """Write a table of cases with their photos, and its scheme; return the paths of both.

    Every fifth case has two photos, every eighth has none.
    """
    rows = []
    for number in range(count):
        level = tuple(COLOURS)[number % 2]
        names = [
            f"photos/{number}-{place}.png" for place in range(0 if number % 8 == 7 else 2 if number % 5 == 4 else 1)
        ]
        for place, name in enumerate(names):
            write_photo_of(folder / name, level, 2 * number + place)
        advice = f"{level} one: {'wait' if level == 'minor' else 'mend it'}"
        rows.append(
            {
                "case_id": f"c{number}",
                "photos": ";".join(names),
                "level": level,
                "advice": advice,
                "defect": "crack" if number % 2 else "rust",
                "split": SPLITS[number // 2 % len(SPLITS)],
            }
        )
    with (folder / "cases.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "scheme.yaml").write_text(SCHEME, encoding="utf-8")
    return folder / "cases.csv", folder / "scheme.yaml"


def report_config(backbone: str, kind: str, *assignments: str, **report: Any) -> TrainConfig:
    settings = {f"report.{name}": str(value) for name, value in report.items()}
    return config_from_options(
        None, [*COMMON, *SIZE.get(kind, ()), *assignments], settings, task="report", backbone=backbone
    )
