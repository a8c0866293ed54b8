"""Python part of ``arm64_smoke.sh``: create the inputs, and compare the predictions of both machines.

    python benchmarks/arm64.py make FOLDER
    python benchmarks/arm64.py compare FOLDER -o RESULT

``make`` creates FOLDER/bundle (fp32 and INT8) and FOLDER/media: clips of five kinds and photos of three. ``compare``
ends with exit code 1 if labels differ, or probabilities by more than is allowed.

The model is EfficientNet-Lite0, trained for a minute on clips of three overlapping colours. Its probabilities are
therefore not all 0 or 1, which would hide every difference.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from machine import describe_machine
from PIL import Image

COLOURS = {"red": (170, 80, 80), "green": (80, 150, 80), "blue": (80, 80, 170)}
SPREAD = 45  # of a file's colour around its label's, in each channel
TRAINED, PREDICTED = 25, 8  # files per colour
SETTINGS = (
    "pixel.height=128",
    "pixel.width=128",
    "frames=3",
    "lora.rank=4",
    "lora.last_blocks=2",
    "optim.epochs=3",
    "optim.batch_size=12",
    "precision=fp32",
    "views=2",
)
# Suffix → encoder; all decoders that cameras need, in containers of their own.
CODECS = {"mp4": "libx264", "mkv": "libx265", "webm": "libvpx-vp9", "avi": "mpeg4", "mov": "libx264"}
PHOTOS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
SIZE = (160, 120)
FRAMES = 12
# Of a probability. ONNX Runtime's INT8 convolutions are equal to the bit; its additions of two INT8 tensors round one
# value in ten thousand the other way, and what follows carries that on.
ALLOWED = {"fp32": 1e-3, "int8": 1e-2}


def picture(rgb: npt.NDArray[np.float64], rng: np.random.Generator, moment: int) -> npt.NDArray[np.uint8]:
    """Return frames of a colour with noise and a moving bright bar."""
    pixels = rgb + rng.integers(-40, 40, (SIZE[1], SIZE[0], 3))
    pixels[:, 8 * moment : 8 * moment + 16] += 50
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_file(path: Path, label: str, rng: np.random.Generator) -> None:
    """Write a clip or a photo whose colour is close to that of the label."""
    rgb = rng.normal(COLOURS[label], SPREAD)
    suffix = path.suffix[1:]
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix in PHOTOS:
        Image.fromarray(picture(rgb, rng, 0)).save(path, PHOTOS[suffix])
        return
    with av.open(str(path), "w") as container:
        quiet = {"x265-params": "log-level=none"} if CODECS[suffix] == "libx265" else {}
        stream = container.add_stream(CODECS[suffix], rate=8, options=quiet)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for moment in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(rgb, rng, moment), format="rgb24")))
        container.mux(stream.encode(None))


def make(folder: Path) -> None:
    rng = np.random.default_rng(0)
    codecs, kinds = tuple(CODECS), (*CODECS, *PHOTOS)
    for label in COLOURS:
        for number in range(TRAINED):
            write_file(folder / "clips" / label / f"{number}.{codecs[number % len(codecs)]}", label, rng)
        for number in range(PREDICTED):
            write_file(folder / "media" / f"{label} {number}.{kinds[number % len(kinds)]}", label, rng)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    vidrisk = (sys.executable, "-m", "vidrisk")
    subprocess.run([*vidrisk, "train", str(folder / "clips"), "-o", str(folder / "run"), *settings], check=True)
    subprocess.run(
        [
            *vidrisk,
            "export",
            str(folder / "run"),
            "-o",
            str(folder / "bundle"),
            "--int8",
            "--max-drop",
            "50",
            "--allow-drop",
        ],
        check=True,
    )


def predictions(folder: Path) -> dict[str, dict[str, float]]:
    """Return the probability of every label, by file name."""
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return {Path(row["path"]).name: row["targets"]["action"] for row in map(json.loads, lines)}


def compare_variant(folder: Path, variant: str) -> dict[str, Any]:
    x86, arm = (predictions(folder / f"{machine}-{variant}") for machine in ("x86", "arm"))
    if x86.keys() != arm.keys():
        raise SystemExit(
            f"error: {variant}: predicted on one machine only: {', '.join(sorted(x86.keys() ^ arm.keys()))}"
        )
    differences = {name: max(abs(x86[name][label] - arm[name][label]) for label in x86[name]) for name in x86}
    changed = [
        name for name in x86 if max(x86[name], key=x86[name].__getitem__) != max(arm[name], key=arm[name].__getitem__)
    ]
    return {
        "files": len(x86),
        "labels_differ": len(changed),
        # Between the two best labels on x86, where aarch64 prefers another one.
        "widest_lead_lost": max((lead(x86[name]) for name in changed), default=0.0),
        "probabilities_differ_by": max(differences.values()),
        "median_difference": statistics.median(differences.values()),
        "by_kind": {
            suffix: max(value for name, value in differences.items() if name.endswith(f".{suffix}"))
            for suffix in (*CODECS, *PHOTOS)
        },
        "allowed_difference": ALLOWED[variant],
    }


def lead(probabilities: dict[str, float]) -> float:
    best, second = sorted(probabilities.values())[:-3:-1]
    return best - second


def read_resolved(report: Path) -> dict[str, str]:
    """Return the versions of the packages in pip's report, by name."""
    installed = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {one["metadata"]["name"]: one["metadata"]["version"] for one in installed}


def compare(folder: Path, output: Path) -> int:
    machine, python = (folder / "platform.txt").read_text(encoding="ascii").split()
    variants = {variant: compare_variant(folder, variant) for variant in ALLOWED}
    doctor = json.loads((folder / "doctor.json").read_text(encoding="utf-8"))
    result = {
        "machine": describe_machine(),
        "platform": machine,
        "python": python,
        "packages": {
            one["name"]: one["version"] for one in json.loads((folder / "packages.json").read_text(encoding="utf-8"))
        },
        "variants": variants,
        "resolved": {
            jetpack: {"python": version, "packages": read_resolved(folder / f"resolved-{version}.json")}
            for jetpack, version in (("JetPack 6", "3.10"), ("JetPack 7", "3.12"))
        },
        "doctor": {
            state: [check["name"] for check in doctor if check["state"] == state]
            for state in ("ok", "warning", "broken", "missing")
        },
        "emulated": {
            "by": (folder / "emulator.txt").read_text(encoding="utf-8").strip(),
            "seconds": int((folder / "seconds.txt").read_text(encoding="ascii")),
            "note": "all of the above ran in user-mode emulation; it says nothing about speed",
        },
    }
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(variants, indent=1))
    too_much = any(one["probabilities_differ_by"] > one["allowed_difference"] for one in variants.values())
    return int(too_much or variants["fp32"]["labels_differ"] > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("make", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "arm64.json")
    options = parser.parse_args()
    if options.command == "make":
        make(options.folder)
        return 0
    return compare(options.folder, options.output)


if __name__ == "__main__":
    sys.exit(main())
