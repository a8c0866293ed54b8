"""The demo's third part: a small language model learns to write reports about photos of solar cells.

It uses EfficientNet-Lite0 and SmolLM2-135M-Instruct, both with real weights from packages. The texts of the training
data are generated from the labels of elpv-dataset: the demo shows the way from a table to reports, not an inspector's
knowledge.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from vidrisk.data.case_tables import load_cases
from vidrisk.data.cases import PhotoFile
from vidrisk.decode.pool import DecodePool
from vidrisk.demo import ADVICE, LEVELS, cell_photos
from vidrisk.export.trained import ExportOptions
from vidrisk.inference.open_reporter import open_reporter
from vidrisk.jobs.case_inputs import find_cases
from vidrisk.jobs.compare_reports import ReportComparison, compare_run
from vidrisk.jobs.report_export import export_reports
from vidrisk.jobs.report_run import run_reports
from vidrisk.jobs.report_settings import ReportSettings
from vidrisk.models.config import config_from_options
from vidrisk.report import build_comparison
from vidrisk.runtimes import Bundle
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.train_data import train_data

TRAIN, VAL, TEST = 320, 40, 60  # photos
BACKBONE = "compose:efficientnet-lite0+smollm2-135m"
# Typical sentences of an inspector, by level; the wording alternates with the number of the photo.
DESCRIPTIONS = {
    "none": ("The cell is bright all over.", "No dark area is visible."),
    "minor": ("A thin dark line, and a bright cell around it.", "A few small dark spots near one edge."),
    "moderate": ("A dark area covers a part of the cell.", "Several dark lines cross the cell."),
    "severe": ("Large parts of the cell are dark.", "The cell is dark on one side of a crack."),
}
SCHEME = """name: solar-cells
language: en
title: Solar cells
levels:
  - {name: none, severity: 0, colour: "#4f9d69"}
  - {name: minor, severity: 33, colour: "#f2c037"}
  - {name: moderate, severity: 67, colour: "#e8873a"}
  - {name: severe, severity: 100, colour: "#d64545"}
fields:
  - {name: level, label: level, kind: level, required: true}
  - {name: description, label: description, max_chars: 80, required: true}
  - {name: advice, label: advice, max_chars: 80, required: true}
text_field: description
prompts:
  system: "You inspect solar cells in electroluminescence photos. \
Answer in JSON: level ({levels}), description, advice."
  photos: "What does the photo show?"
  text: "A colleague writes: {text}"
"""
SETTINGS = (
    "vlm.grid=3",
    "lora.rank=16",
    "lora.alpha=32",
    "lora.last_blocks=null",
    "optim.epochs=4",
    "optim.batch_size=4",
    "optim.lora_lr=0.0005",
    "optim.projector_lr=0.001",
    "optim.warmup=0.05",
    "augment=[dihedral]",
    "trackers=[]",
)


@dataclass(frozen=True)
class ReportDemo:
    """Result of the demo.

    Attributes:
        page: reports about held-out photos beside the expected ones.
        bundle: the bundle that wrote them.
    """

    comparison: ReportComparison
    page: Path
    bundle: Bundle


def write_demo_cases(folder: Path) -> tuple[Path, Path, Path]:
    """Write the tables of all cases and of the held-out cases, and the scheme.

    Raises:
        MissingExtra: the extra ``demo`` is not installed.
    """
    photos = cell_photos()
    per_level: dict[str, list[Path]] = {level: [] for level in LEVELS.values()}
    for path, level in photos:
        per_level[level].append(path)
    sizes = (("train", TRAIN), ("val", VAL), ("test", TEST))
    rows: list[dict[str, str]] = []
    for level, paths in per_level.items():
        rest = iter(paths)
        for split, count in sizes:
            for number in range(count // len(per_level)):
                path = next(rest)
                rows.append(
                    {
                        "case_id": path.stem,
                        "photo": str(path),
                        "level": level,
                        "split": split,
                        "advice": ADVICE[level],
                        "description": DESCRIPTIONS[level][number % len(DESCRIPTIONS[level])],
                    }
                )
    folder.mkdir(parents=True, exist_ok=True)
    tables = folder / "cells.csv", folder / "held-out.csv"
    for table, chosen in zip(tables, (rows, [row for row in rows if row["split"] == "test"]), strict=True):
        with table.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(chosen)
    (folder / "cells.yaml").write_text(SCHEME, encoding="utf-8")
    return *tables, folder / "cells.yaml"


def run_demo_reports(out: Path, on_progress: OnProgress) -> ReportDemo:
    """Train, export, write reports about held-out photos and compare them, all in ``out``.

    Raises:
        SettingsError: ``out`` exists and is not empty.
        MissingExtra: an extra is not installed.
    """
    if out.exists() and any(out.iterdir()):
        raise SettingsError(f"{out} exists and is not empty", fix="choose another folder with -o, or delete it")
    table, held_out, scheme = write_demo_cases(out)
    photos = str(cell_photos()[0][0].parent)
    config = config_from_options(
        None, SETTINGS, {"report.scheme": str(scheme), "report.photos": photos}, task="report", backbone=BACKBONE
    )
    run = train_data(table, config, out / "run", on_progress=on_progress)
    bundle, _ = export_reports(
        run.root, out / "reports.bundle", ExportOptions(int8=True, max_drop=5.0, search_s=60), on_progress=on_progress
    )
    settings = ReportSettings()
    known = load_cases(held_out, scheme, photos=photos)
    with DecodePool(settings.workers) as pool, open_reporter(bundle.root) as reporter:
        names = [str(photo.path) for case in known.cases for photo in case.photos if isinstance(photo, PhotoFile)]
        run_reports(
            reporter,
            find_cases(names, reporter.require_scheme()),
            out / "reports",
            settings,
            pool=pool,
            on_progress=lambda p: on_progress("writing reports", p.files, p.files_total),
        )
        comparison = compare_run(out / "reports", known, known.scheme, tables=(held_out,))
        page = build_comparison(out / "reports", pool)
    return ReportDemo(comparison, page, bundle)
