"""Make the pictures of the pages.

Photos that are drawn, a model that learns to report about them, and headless Chromium.

    python docs/make_pictures.py [--work FOLDER]

Nothing in the pictures is anybody's photo: walls are noise with cracks, holes and stains drawn on it. The model is
EfficientNet-Lite0 and SmolLM2-135M-Instruct, trained for a few minutes and exported as a user would. What is in --work
already is not made again, but a page that is older than its template is refused. ``pictures/sources.json`` has, for
every picture, a digest of the files that its page is made of; tests/test_docs.py compares it with today's.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

REPOSITORY = Path(__file__).resolve().parents[1]
PICTURES = REPOSITORY / "docs" / "pictures"
SOURCES = PICTURES / "sources.json"
TEMPLATES = {
    "report.png": ("vidrisk/report/report.html.j2",),
    "reports.png": ("vidrisk/report/report.html.j2",),
    "comparison.png": ("vidrisk/report/comparison.html.j2", "vidrisk/report/comparison_case.html.j2"),
    "gate.png": ("export/gate/gate.html.j2",),
    "gate-of-reports.png": ("export/gate/text_gate.html.j2",),
}
"""Templates of the page that a picture shows."""
SIZE = 320, 240
WIDTH = 1100  # of a page, in pixels
DEFECTS = {
    "none": "The wall is even.",
    "crack": "A crack runs over the wall.",
    "spalling": "Concrete has come off.",
    "stain": "Water has stained the wall.",
}
LEVELS = {
    "none": "Nothing to do.",
    "minor": "Look again in a year.",
    "moderate": "Mend it within a month.",
    "severe": "Close the area and mend it now.",
}
SCHEME = f"""name: walls
title: Walls
language: en
levels:
  - {{name: none, severity: 0, colour: "#4f9d69"}}
  - {{name: minor, severity: 33, colour: "#f2c037"}}
  - {{name: moderate, severity: 67, colour: "#e8873a"}}
  - {{name: severe, severity: 100, colour: "#d64545"}}
fields:
  - {{name: level, label: level, kind: level, required: true}}
  - {{name: defect, label: defect, kind: choice, choices: [{", ".join(DEFECTS)}], required: true}}
  - {{name: description, label: description, max_chars: 60, required: true}}
  - {{name: advice, label: advice, max_chars: 60, required: true}}
text_field: description
prompts: {{system: "Inspect the wall. Answer in JSON: level, defect, description, advice", photos: "What is it?", text: "{{text}}"}}
"""
BACKBONE = "compose:efficientnet-lite0+smollm2-135m"
SETTINGS = (
    "vlm.grid=3",
    "lora.rank=16",
    "lora.alpha=32",
    "lora.last_blocks=null",
    "optim.epochs=4",
    "optim.batch_size=4",
    "optim.lora_lr=0.0005",
    "trackers=[]",
)
COUNTS = {"train": 18, "val": 4, "test": 5}  # photos of each defect and level


def draw_wall(random: np.random.Generator) -> Image.Image:
    clouds = Image.fromarray(random.integers(130, 190, (6, 8), np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    tint = random.integers(-12, 12, 3)
    grain = random.normal(0, 6, (SIZE[1], SIZE[0], 1))
    return Image.fromarray(np.clip(np.asarray(clouds)[..., None] + tint + grain, 0, 255).astype(np.uint8))


def draw_crack(wall: Image.Image, width: int, random: np.random.Generator) -> None:
    x, y = random.uniform(0, SIZE[0] / 3), random.uniform(SIZE[1] / 4, 3 * SIZE[1] / 4)
    points = [(x, y)]
    while x < SIZE[0]:
        x, y = x + random.uniform(6, 18), y + random.normal(0, 9)
        points.append((x, y))
    ImageDraw.Draw(wall).line(points, fill=(50, 45, 42), width=width, joint="curve")


def blob(radius: float, random: np.random.Generator) -> Image.Image:
    """Draw a mask with an uneven edge."""
    x, y = random.uniform(radius, SIZE[0] - radius), random.uniform(radius, SIZE[1] - radius)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    reach = radius * random.uniform(0.65, 1.0, len(angles))
    mask = Image.new("L", SIZE)
    ImageDraw.Draw(mask).polygon(
        [(x + r * np.cos(a), y + r * np.sin(a)) for a, r in zip(angles, reach, strict=True)], fill=255
    )
    return mask


def draw_photo(defect: str, level: str, random: np.random.Generator) -> Image.Image:
    wall = draw_wall(random)
    place = list(LEVELS).index(level)
    if defect == "crack":
        draw_crack(wall, (2, 5, 10)[place - 1], random)
    elif defect == "spalling":
        mask = blob((22, 48, 90)[place - 1], random)
        stones = Image.fromarray(
            random.integers(60, 140, (60, 80, 1), np.uint8).repeat(3, axis=2) + np.uint8([30, 10, 0])
        )
        wall.paste(stones.resize(SIZE, Image.Resampling.NEAREST), mask=mask)
    elif defect == "stain":
        mask = (
            blob((30, 62, 105)[place - 1], random)
            .filter(ImageFilter.GaussianBlur(9))
            .point(lambda value: int(0.7 * value))
        )
        wall = Image.composite(ImageChops.multiply(wall, Image.new("RGB", SIZE, (120, 140, 90))), wall, mask)
    return wall


def write_cases(folder: Path) -> Path:
    """Draw photos, and write the tables of all and of held-out cases."""
    random = np.random.default_rng(0)
    rows = []
    (folder / "photos").mkdir(parents=True)
    kinds = [("none", "none")] * 3 + [(defect, level) for defect in [*DEFECTS][1:] for level in [*LEVELS][1:]]
    for split, count in COUNTS.items():
        for number in range(count):
            for place, (defect, level) in enumerate(kinds):
                name = f"photos/{split}-{number:02}-{place:02}.jpg"
                draw_photo(defect, level, random).save(folder / name, quality=90)
                rows.append(
                    {
                        "case_id": Path(name).stem,
                        "photo": name,
                        "level": level,
                        "defect": defect,
                        "split": split,
                        "description": DEFECTS[defect],
                        "advice": LEVELS[level],
                    }
                )
    for table, chosen in (("walls.csv", rows), ("held-out.csv", [row for row in rows if row["split"] == "test"])):
        with (folder / table).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(chosen)
    with (folder / "risks.csv").open("w", encoding="utf-8", newline="") as file:
        risks = csv.writer(file)
        risks.writerow(["image_path", "risk_level", "advice", "description", "split"])
        risks.writerows([row[key] for key in ("photo", "level", "advice", "description", "split")] for row in rows)
    (folder / "walls.yaml").write_text(SCHEME, encoding="utf-8")
    return folder / "walls.csv"


def vidrisk(work: Path, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "vidrisk", *words], cwd=work, check=True)


def find_sources(picture: str) -> list[Path]:
    """Return the files that a picture's page is made of: templates, and the styles and scripts that they take in."""
    found = [REPOSITORY / template for template in TEMPLATES[picture]]
    for path in found:
        names = re.findall(
            r'(?:include|import|extends|from) "([^"]+)"|inline\("([^"]+)"\)', path.read_text(encoding="utf-8")
        )
        beside = [path.parent / (included or inlined) for included, inlined in names]
        found += [each for each in dict.fromkeys(beside) if each not in found]
    return sorted(found)


def compute_digest(picture: str) -> str:
    """Return a digest of the files that a picture's page is made of."""
    digest = hashlib.sha256()
    for path in find_sources(picture):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def write_digest(picture: str) -> None:
    """Write the digest of a picture into ``SOURCES``."""
    known = json.loads(SOURCES.read_text(encoding="utf-8")) if SOURCES.is_file() else {}
    known[picture] = compute_digest(picture)
    SOURCES.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def shoot(page: Path, picture: Path, work: Path, top: int, height: int) -> None:
    """Photograph ``height`` pixels of a page, from ``top`` on; the path of the work folder is replaced.

    The picture is listed in ``SOURCES``.
    """
    newer = [path.name for path in find_sources(picture.name) if path.stat().st_mtime > page.stat().st_mtime]
    if newer:
        raise SystemExit(f"{page} is older than {newer[0]}; delete the folder that it lies in")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        raise SystemExit("Chromium is not installed")
    with tempfile.TemporaryDirectory() as profile:
        shown = Path(profile) / "page.html"
        shown.write_text(page.read_text(encoding="utf-8").replace(str(work.resolve()), "/data/walls"), encoding="utf-8")
        subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--no-first-run",
                "--disable-background-networking",
                "--virtual-time-budget=3000",
                f"--user-data-dir={profile}",
                f"--window-size={WIDTH},{top + height}",
                "--blink-settings=preferredColorScheme=1",
                f"--screenshot={picture}",
                shown.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
            env={**os.environ, "HOME": profile},
        )
    with Image.open(picture) as image:
        smaller = image.crop((0, top, WIDTH, top + height)).convert("P", palette=Image.Palette.ADAPTIVE, colors=128)
    smaller.save(picture, optimize=True)
    write_digest(picture.name)


def make(work: Path) -> None:
    """Make the pictures of a classifier and of a model that writes reports."""
    if not (work / "walls.csv").is_file():
        write_cases(work)
    photos = sorted(str(path.relative_to(work)) for path in (work / "photos").glob("test-*.jpg"))
    PICTURES.mkdir(exist_ok=True)
    make_risks(work, photos)
    make_reports(work, photos)


def make_risks(work: Path, photos: list[str]) -> None:
    """Train, export and run a classifier of risk levels."""
    if not (work / "risk-run" / "metrics.json").is_file():
        vidrisk(work, "train", "risks.csv", "-o", "risk-run", "--task", "risk")
    if not (work / "risks.bundle").is_dir():
        vidrisk(work, "export", "risk-run", "-o", "risks.bundle", "--int8", "--max-drop", "10")
    if not (work / "risk-out" / "report.html").is_file():
        vidrisk(work, "infer", "risks.bundle", *photos, "-o", "risk-out")
    shoot(work / "risk-out" / "report.html", PICTURES / "report.png", work, 0, 1100)
    shoot(work / "risks.bundle" / "gate.html", PICTURES / "gate.png", work, 0, 1100)


def make_reports(work: Path, photos: list[str]) -> None:
    """Train, export and run a model that writes reports."""
    if not (work / "run" / "metrics.json").is_file():
        vidrisk(
            work,
            "train",
            "walls.csv",
            "-o",
            "run",
            "--task",
            "report",
            "--backbone",
            BACKBONE,
            *(word for setting in ("report.scheme=walls.yaml", *SETTINGS) for word in ("--set", setting)),
        )
    if not (work / "walls.bundle").is_dir():
        vidrisk(work, "export", "run", "-o", "walls.bundle", "--int8", "--max-drop", "5")
    if not (work / "out" / "comparison.html").is_file():
        (work / "list.txt").write_text("\n".join(photos) + "\n", encoding="utf-8")
        vidrisk(work, "infer", "walls.bundle", "list.txt", "-o", "out", "--compare", "held-out.csv")
    shoot(work / "out" / "comparison.html", PICTURES / "comparison.png", work, 0, 1500)
    shoot(work / "out" / "report.html", PICTURES / "reports.png", work, 960, 1000)
    shoot(work / "walls.bundle" / "gate.html", PICTURES / "gate-of-reports.png", work, 0, 1100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        make(work.resolve())


if __name__ == "__main__":
    main()
