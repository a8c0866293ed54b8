"""The demo: the main job twice, from labelled data to a report, on data that needs no download.

1. Risk: electroluminescence photos of solar cells (elpv-dataset, Buerhop-Lutz et al. 2018, CC BY-NC-SA 4.0), four
   levels.
2. Action: clips rendered here from the same photos, in pairs that are each other's reversal, so that only a head which
   sees the order of the frames can tell them apart.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vidrisk.data import Sample, Table, load_table, split_table
from vidrisk.decode.pool import DecodePool
from vidrisk.export.trained import ExportOptions
from vidrisk.inference.model import open_classifier
from vidrisk.jobs.evaluate import evaluate
from vidrisk.jobs.export import export_run
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.sources import find_inputs
from vidrisk.metrics.classification import Metrics, agreement
from vidrisk.models.config import TrainConfig, config_from_options
from vidrisk.report import build_report
from vidrisk.runtimes import Bundle
from vidrisk.runtimes.contract.errors import SettingsError, require
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.runtimes.registry import file_runtimes
from vidrisk.runtimes.select import Choice, rank_choices
from vidrisk.train.train import train_run

PHOTOS = 900
PHOTO_RATIOS = (6, 2, 2)
LEVELS = {"0.0": "none", "0.3333333333333333": "minor", "0.6666666666666666": "moderate", "1.0": "severe"}
ADVICE = {
    "none": "Keep in service.",
    "minor": "Inspect again at the next scheduled visit.",
    "moderate": "Measure the module's output and inspect within a month.",
    "severe": "Replace the module.",
}
MOTIONS = ("zoom in", "zoom out", "turn away", "turn back", "enter", "leave")
CLIPS_PER_MOTION = 24
CLIP_FRAMES, CLIP_FPS, CLIP_SIDE = 18, 12, 128


@dataclass(frozen=True)
class Line:
    """One row of the closing table, measured on held-out samples."""

    task: str
    runtime: str
    variant: str
    samples: int
    top1: float
    macro_f1: float
    agreement_with_fp32: float
    frames_per_s: float


@dataclass(frozen=True)
class DemoResult:
    out: Path
    lines: list[Line]
    reports: dict[str, Path]


def run_demo(out: Path, on_progress: OnProgress) -> DemoResult:
    """Train, export, infer and report on both tasks into ``out``.

    Raises:
        SettingsError: ``out`` exists and is not empty.
        MissingExtra: the extra ``demo`` is not installed.
    """
    if out.exists() and any(out.iterdir()):
        raise SettingsError(f"{out} exists and is not empty", fix="choose another folder with -o, or delete it")
    out.mkdir(parents=True, exist_ok=True)
    photos = cell_photos()
    tasks = {
        "risk": (
            photo_table(photos),
            config_from_options(
                None,
                [
                    "task=risk",
                    "pool=avgmax",
                    "lora.last_blocks=5",
                    "lora.alpha=16",
                    "optim.epochs=8",
                    "optim.batch_size=32",
                    "optim.lora_lr=0.001",
                    "head.dropout=0.3",
                    "augment=[dihedral]",
                ],
            ),
        ),
        "action": (
            motion_table(photos, out / "clips", on_progress),
            config_from_options(
                None,
                ["task=action", "frames=8", "lora.last_blocks=0", "optim.epochs=30", "optim.head_lr=0.0003", "views=1"],
            ),
        ),
    }
    lines: list[Line] = []
    reports: dict[str, Path] = {}
    for name, (table, config) in tasks.items():
        held_out = table.of_split("test")
        bundle = _model_from_table(name, table, config, out, on_progress)
        lines += _measure(name, bundle, held_out, on_progress)
        reports[name] = _report(bundle, held_out, out / f"{name}-report")
    (out / "results.json").write_text(json.dumps([asdict(line) for line in lines], indent=2) + "\n", encoding="utf-8")
    return DemoResult(out, lines, reports)


def _model_from_table(name: str, table: Table, config: TrainConfig, out: Path, on_progress: OnProgress) -> Bundle:
    def tell(what: str, done: int, total: int) -> None:
        on_progress(f"{name}: {what}", done, total)

    train_run(table, config, out / f"{name}-run", on_progress=tell)
    options = ExportOptions(int8=True, target="any", max_drop=3.0)
    bundle, _ = export_run(out / f"{name}-run", out / f"{name}.bundle", options, on_progress=tell)
    return bundle


def _measure(task: str, bundle: Bundle, held_out: Table, on_progress: OnProgress) -> Iterator[Line]:
    """Yield the held-out accuracy and the speed of every runtime and variant, timed in turns in one run."""

    def tell(what: str, done: int, total: int) -> None:
        on_progress(f"{task}: {what}", done, total)

    target = bundle.contract.targets[0].name
    reference: dict[str, np.ndarray[Any, Any]] = {}
    variants = [name for name in bundle.passed if bundle.manifest.variants[name].engines != "tensorrt"]
    for choice in sorted(
        rank_choices(bundle, [Choice(r, v) for r in file_runtimes() for v in variants]),
        key=lambda c: (c.runtime, c.variant != "fp32"),
    ):
        with open_classifier(bundle.root, runtime=choice.runtime, variant=choice.variant) as classifier:
            result = evaluate(classifier, held_out, on_progress=tell)
        scores, metrics = result.probabilities[target], result.metrics[target]
        assert isinstance(metrics, Metrics)  # samples of folders have one label
        reference.setdefault(choice.runtime, scores)
        yield Line(
            task,
            choice.runtime,
            choice.variant,
            metrics.n,
            metrics.top1,
            metrics.macro_f1,
            agreement(reference[choice.runtime], scores),
            1e3 / (choice.ms_per_frame or float("nan")),
        )


def _report(bundle: Bundle, held_out: Table, out: Path) -> Path:
    inputs = find_inputs([str(sample.path) for sample in held_out.samples])
    settings = InferSettings()
    with DecodePool(settings.workers) as pool:
        with open_classifier(bundle.root) as classifier:
            run_folder(classifier, inputs, out, settings, pool=pool, cards=len(inputs.paths))
        return build_report(out, pool)


def cell_photos() -> list[tuple[Path, str]]:
    """Return the photos of elpv-dataset with their levels, in a fixed random order."""
    package: Any = require("elpv_dataset", "demo")
    root = Path(package.__file__).parent / "data"
    rows = [line.split() for line in (root / "labels.csv").read_text(encoding="utf-8").splitlines()]
    photos = [(root / name, LEVELS[str(float(probability))]) for name, probability, _ in rows]
    random.Random(0).shuffle(photos)
    return photos


def photo_table(photos: list[tuple[Path, str]]) -> Table:
    """Return a subset of the photos as a risk table with advice, split into train, val and test."""
    samples = tuple(
        Sample(path=path, name=path.name, labels={"level": level}, advice=ADVICE[level])
        for path, level in photos[:PHOTOS]
    )
    return split_table(Table(photos[0][0].parent, "risk", samples), ratios=PHOTO_RATIOS, seed=0)


def motion_table(photos: list[tuple[Path, str]], folder: Path, on_progress: OnProgress) -> Table:
    """Render the clips of the action task, each from a different photo, and split them."""
    pictures = [path for path, _ in photos[PHOTOS : PHOTOS + CLIPS_PER_MOTION * len(MOTIONS)]]
    for number, path in enumerate(pictures):
        on_progress("action: rendering clips", number, len(pictures))
        motion = MOTIONS[number % len(MOTIONS)]
        target = folder / motion / f"{path.stem}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        render_clip(path, motion, target, seed=number)
    return split_table(load_table(folder, "action"), ratios=PHOTO_RATIOS, seed=0)


def render_clip(picture: Path, motion: str, target: Path, seed: int) -> None:
    """Render one clip (H.264, 1.5 s) of a motion over a picture.

    Every second motion is the reversal of the one before it.
    """
    av: Any = require("av", "cpu")
    rng = random.Random(seed)
    amount = rng.uniform(0.7, 1.0)
    with Image.open(picture) as opened:
        image = opened.convert("RGB")
    position = MOTIONS.index(motion)
    frames = [_draw_moment(image, position // 2, amount * t / (CLIP_FRAMES - 1)) for t in range(CLIP_FRAMES)]
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=CLIP_FPS)
        stream.width = stream.height = CLIP_SIDE
        stream.pix_fmt = "yuv420p"
        for frame in reversed(frames) if position % 2 else frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def _draw_moment(image: Image.Image, kind: int, amount: float) -> Image.Image:
    """Draw the picture at one moment of a motion: kind 0 enlarges, 1 rotates, 2 shifts it into the frame."""
    side = CLIP_SIDE
    if kind == 0:
        scale = 1 + 1.2 * amount
        cut = image.width / scale / 2
        middle = image.width / 2
        return image.resize(
            (side, side), Image.Resampling.BICUBIC, box=(middle - cut, middle - cut, middle + cut, middle + cut)
        )
    square = image.resize((side, side), Image.Resampling.BICUBIC)
    if kind == 1:
        return square.rotate(45 * amount, Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (side, side))
    canvas.paste(square, (round(side * 0.8 * (1 - amount)), 0))
    return canvas
