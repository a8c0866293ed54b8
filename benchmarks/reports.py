"""Compare reports that a small language model writes about photos with a classifier on the same tower.

    python benchmarks/reports.py DATA [--runs FOLDER] [--epochs N]

DATA contains ``magnetic_tile`` (labels.csv and images). Half of the photos train, a quarter is for choosing and
judging, a quarter is held out; stratified by defect, seed 0. The level is the area of the defect: none, minor below 0.5
%, moderate below 5 %, severe. The generator, EfficientNet-Lite0 + MLP + SmolLM2-135M, learns answers in JSON: level,
defect, a description and an advice, whose sentences are derived from the labels. The classifier is a linear head for
each of level and defect on the same frozen tower. The generator is exported with INT8 and packed weights by a recipe
that the gate chooses; every variant writes a report of every held-out photo, constrained by the schema.

What exists in --runs is reused. The settings were fixed on the quarter for choosing.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import PHOTO_SETTINGS
from machine import describe_machine

from vidrisk.data import Sample, Table, load_table, split_table
from vidrisk.data.case_tables import load_cases
from vidrisk.data.cases import Cases
from vidrisk.data.targets import truth_from_table
from vidrisk.decode.pool import DecodePool
from vidrisk.export.trained import ExportOptions
from vidrisk.inference.model import open_classifier
from vidrisk.inference.open_reporter import open_reporter
from vidrisk.jobs.case_inputs import find_cases
from vidrisk.jobs.compare_reports import compare_run
from vidrisk.jobs.evaluate import evaluate
from vidrisk.jobs.report_export import export_reports
from vidrisk.jobs.report_rows import read_report_rows
from vidrisk.jobs.report_run import run_reports
from vidrisk.jobs.report_settings import ReportSettings
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.models.config import config_from_options
from vidrisk.models.run import METRICS
from vidrisk.runtimes.contract.bundle import Bundle
from vidrisk.runtimes.paired import mcnemar_p
from vidrisk.train.train import train_run
from vidrisk.train.train_data import train_data

RESULT = Path(__file__).parent / "results" / "reports.json"
TIMES = "seconds.json"
BACKBONE = "compose:efficientnet-lite0+smollm2-135m"
EPOCHS = 10
SETTINGS = (
    "vlm.grid=3",
    "lora.rank=16",
    "lora.alpha=32",
    "lora.last_blocks=null",
    "optim.batch_size=4",
    "optim.lora_lr=0.0005",
    "optim.projector_lr=0.001",
    "augment=[flip,updown]",
    "views=8",
    "trackers=[]",
)
LIMITS = {"minor": 0.005, "moderate": 0.05}  # of the share of the tile that the defect covers
LEVELS = ("none", *LIMITS, "severe")
ADVICE = {
    "none": "Ship it.",
    "minor": "Ship it as second choice.",
    "moderate": "Grind it and look again.",
    "severe": "Scrap it.",
}
DEFECTS = {
    "free": "The surface is even.",
    "blowhole": "A round hole in the surface.",
    "break": "A piece is missing at the edge.",
    "crack": "A thin dark line runs over the surface.",
    "fray": "The edge is frayed.",
    "uneven": "Bright and dark areas: the surface was ground unevenly.",
}
FIELDS = ("level", "defect")
SCHEME = f"""name: magnetic-tiles
language: en
levels: [{", ".join(f"{{name: {name}, severity: {place * 33}}}" for place, name in enumerate(LEVELS))}]
fields:
  - {{name: level, label: level, kind: level, required: true}}
  - {{name: defect, label: defect, kind: choice, choices: [{", ".join(DEFECTS)}], required: true}}
  - {{name: description, label: description, max_chars: 80, required: true}}
  - {{name: advice, label: advice, max_chars: 60, required: true}}
text_field: description
prompts:
  system: "Inspect the tile. Answer in JSON: level, defect, description, advice"
  photos: "What is it?"
  text: "{{text}}"
"""


def level_of(area: float, defect: str) -> str:
    return "none" if defect == "free" else next((name for name, limit in LIMITS.items() if area < limit), LEVELS[-1])


def write_tables(data: Path, out: Path) -> tuple[Path, Path, Path, Table]:
    """Write the tables of cases and of held-out cases and the scheme; also return the photos for a classifier."""
    source = data / "magnetic_tile" / "labels.csv"
    with source.open(encoding="utf-8", newline="") as file:
        area = {Path(row["image_path"]).name: float(row["defect_area_fraction"]) for row in csv.DictReader(file)}
    table = split_table(load_table(source, "risk"), ratios=(2, 1, 1), seed=0)
    rows = []
    for sample in table.samples:
        defect = sample.labels["defect"]
        level = level_of(area[sample.path.name], defect)
        rows.append(
            {
                "case_id": sample.path.stem,
                "photo": str(sample.path.resolve()),
                "level": level,
                "defect": defect,
                "description": DEFECTS[defect],
                "advice": ADVICE[level],
                "split": sample.split,
            }
        )
    out.mkdir(parents=True, exist_ok=True)
    paths = out / "tiles.csv", out / "held-out.csv", out / "tiles.yaml"
    for path, chosen in zip(paths, (rows, [row for row in rows if row["split"] == "test"]), strict=False):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(chosen)
    paths[2].write_text(SCHEME, encoding="utf-8")
    labels = {row["case_id"]: {name: str(row[name]) for name in FIELDS} for row in rows}
    return *paths, table.with_samples(replace_labels(table, labels))


def replace_labels(table: Table, labels: Mapping[str, Mapping[str, str]]) -> Iterator[Sample]:
    return (replace(sample, labels=labels[sample.path.stem]) for sample in table.samples)


def classify(table: Table, run: Path) -> dict[str, dict[str, bool]]:
    """Train the classifier of each field if it is missing; return which held-out photos each classifies correctly."""
    right: dict[str, dict[str, bool]] = {}
    for field in FIELDS:
        own = table.with_samples(replace_labels(table, {s.path.stem: {field: s.labels[field]} for s in table.samples}))
        out = run.with_name(f"{run.name}_{field}")
        if not (out / METRICS).is_file():
            train_run(own, config_from_options(None, PHOTO_SETTINGS), out)
        test = own.of_split("test")
        with open_classifier(out, threads=2) as model:
            (target,) = model.contract.targets
            found = evaluate(model, test, InferSettings()).probabilities[target.name].argmax(axis=1)
            hits = found == truth_from_table(test, (target,))[target.name]
            right[field] = {sample.path.stem: bool(hit) for sample, hit in zip(test.samples, hits, strict=True)}
    return right


def write_reports(bundle: Bundle, variant: str, known: Cases, table: Path, out: Path) -> dict[str, Any]:
    """Write reports of the held-out photos with one variant, and compare them with the truth."""
    photos = [str(case.photos[0].path) for case in known.cases]  # type: ignore[union-attr]
    with DecodePool(2) as pool, open_reporter(bundle.root, variant=variant, threads=2) as reporter:
        begin = time.perf_counter()
        run_reports(
            reporter, find_cases(photos, reporter.require_scheme()), out, ReportSettings(resume=out.exists()), pool=pool
        )
        seconds = time.perf_counter() - begin
    scores = compare_run(out, known, known.scheme, tables=(table,)).scores
    part = bundle.manifest.variants[variant]  # type: ignore[index]
    files = {name for path in part.files.values() for name in (path, f"{path}.data")}
    return {
        "level": scores.levels["level"].accuracy,
        "defect": scores.choices["defect"].accuracy,
        "reports": scores.reports,
        "parsed": scores.parsed.share if scores.parsed else None,
        "kappa": scores.levels["level"].quadratic_kappa,
        "texts": {name: each.exact for name, each in scores.texts.items()},
        "ece": scores.ece,
        "abstained": scores.abstained.share if scores.abstained else None,
        "s_per_report": seconds / scores.reports,
        "size_mb": sum(sealed.bytes for name, sealed in bundle.manifest.files.items() if name in files) / 2**20,
        "precision": dict(part.precision),
    }


def fields_in(out: Path) -> dict[str, tuple[str, ...]]:
    return {
        Path(row.path).stem: tuple(row.fields[name] if row.parse_ok else "" for name in FIELDS)
        for row in read_report_rows(out)
    }


def read_seconds(runs: Path, settings: Sequence[str]) -> dict[str, float]:
    """Return the times recorded when the folder was filled; refuse a folder of other settings."""
    if not (runs / TIMES).is_file():
        (runs / TIMES).write_text(json.dumps({"settings": list(settings), "seconds": {}}), encoding="utf-8")
    kept = json.loads((runs / TIMES).read_text(encoding="utf-8"))
    if kept["settings"] != list(settings):
        raise SystemExit(f"{runs} was made with other settings: {kept['settings']}")
    found: dict[str, float] = kept["seconds"]
    return found


@contextmanager
def time_phase(seconds: dict[str, float], name: str, runs: Path) -> Iterator[None]:
    """Add the time of the block to ``seconds`` and to the folder, so that a stopped benchmark can continue."""
    begin = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0) + time.perf_counter() - begin
        kept = json.loads((runs / TIMES).read_text(encoding="utf-8")) | {"seconds": seconds}
        (runs / TIMES).write_text(json.dumps(kept), encoding="utf-8")


def measure(data: Path, runs: Path, settings: Sequence[str]) -> dict[str, Any]:
    table, held_out, scheme, labelled = write_tables(data, runs)
    right = classify(labelled, runs / "classifier")
    seconds = read_seconds(runs, settings)
    if not (runs / "run" / METRICS).is_file():
        given = {"report.scheme": str(scheme), "report.photos": "/"}
        with time_phase(seconds, "training", runs):
            train_data(
                table,
                config_from_options(None, settings, given, task="report", backbone=BACKBONE),
                runs / "run",
                resume=(runs / "run").exists(),
                on_progress=_say,
            )
    bundle_path = runs / "reports.bundle"
    if not bundle_path.is_dir():
        with time_phase(seconds, "export", runs):
            export_reports(
                runs / "run", bundle_path, ExportOptions(int8=True, max_drop=0.5, search_s=300), on_progress=_say
            )
    bundle = Bundle.open(bundle_path)
    known = load_cases(held_out, scheme, photos="/")
    truth = {case.id: tuple(case.fields[name] for name in FIELDS) for case in known.cases}
    variants, said = {}, {}
    for variant in bundle.passed:
        variants[variant] = write_reports(bundle, variant, known, held_out, runs / f"reports-{variant}")
        said[variant] = fields_in(runs / f"reports-{variant}")
        for place, name in enumerate(FIELDS):
            agree = np.mean([said[variant][key][place] == said["fp32"][key][place] for key in truth])
            ours = {key: said[variant][key][place] == truth[key][place] for key in truth}
            gained, lost = (
                sum(ours[key] is one and right[name][key] is not one for key in truth) for one in (True, False)
            )
            variants[variant][f"{name}_agreement_with_fp32"] = float(agree)
            variants[variant][f"{name}_beside_classifier"] = {
                "gained": gained,
                "lost": lost,
                "mcnemar_p": mcnemar_p(gained, lost),
            }
    return {
        "protocol": "magnetic_tile: 536 photos, 50/25/25 stratified by defect, seed 0; levels by the defect's area",
        "held_out": len(truth),
        "classifier": {name: float(np.mean(list(found.values()))) for name, found in right.items()},
        "variants": variants,
        "seconds": seconds,
        "settings": list(settings),
        "figures_of_run": json.loads((runs / "run" / METRICS).read_text(encoding="utf-8"))["reports"],
    }


_LAST: dict[str, float] = {}


def _say(what: str, done: int, total: int) -> None:
    if time.monotonic() - _LAST.get(what, 0) > 30:
        _LAST[what] = time.monotonic()
        print(f"{time.strftime('%H:%M:%S')} {what} {done}/{total}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("report-runs"), help="where runs and bundles stay")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--threads", type=int, default=2, help="that training takes")
    parser.add_argument(
        "--set", action="append", default=[], help="a setting of the generator's training; nothing is kept then"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = measure(arguments.data, arguments.runs, (*SETTINGS, f"optim.epochs={arguments.epochs}", *arguments.set))
    found |= {"machine": describe_machine(), "threads": 2, "backbone": BACKBONE}
    if not arguments.set:
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
