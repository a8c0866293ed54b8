"""Compare the cost of ``vidrisk infer`` in this checkout and in another one, in turns.

    python benchmarks/checkouts.py [--against CHECKOUT] [--files 50000] [--inputs FOLDER] [--rounds 5]

Without ``--inputs`` it reads photos of 8x8 pixels with a model that takes a mean. What remains is the cost per file:
finding it, sending it to a decode process, and writing it into the ledger. ``--inputs`` is a folder of real clips or
photos, where decoding takes most of the time. ``--against`` is the root of another checkout (``git worktree add``),
which runs in the same interpreter; the ratio is the cost of the changes between the two. Each kind of input has its own
part of ``results/checkouts.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from machine import describe_machine
from PIL import Image
from process_costs import Spent, adopt_orphans, measure_costs
from quiet import measure_quietly

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "vidrisk" / "jobs"))

from colour_bundle import write_colour_bundle

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results" / "checkouts.json"
FILES_PER_FOLDER = 500
PICTURES = 16


def write_photos(root: Path, count: int) -> None:
    """Write ``count`` PNG files in a few colours, FILES_PER_FOLDER per folder."""
    rng = np.random.default_rng(0)
    contents = []
    for number in range(PICTURES):
        path = root.with_name(f"{number}.png")
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
        contents.append(path.read_bytes())
    for number in range(count):
        folder = root / f"{number // FILES_PER_FOLDER:04}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06}.png").write_bytes(contents[number % PICTURES])


def run_of(checkout: Path, bundle: Path, inputs: Path, work: Path) -> tuple[Spent, int]:
    """Run ``vidrisk infer`` of a checkout on a folder; return its cost and the number of files that it read.

    Raises:
        RuntimeError: it failed, or could not read a file.
    """
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        out = Path(scratch) / "out"
        command = [
            sys.executable,
            "-m",
            "vidrisk",
            "infer",
            bundle,
            inputs,
            "-o",
            out,
            "--runtime",
            "onnxruntime",
            "--no-report",
        ]
        spent = measure_costs(
            command, work=work, environment={"PYTHONPATH": str(checkout), "VIDRISK_CACHE": str(work / "cache")}
        )
        states = json.loads((out / "summary.json").read_text(encoding="utf-8"))["states"]
    if set(states) != {"ok"}:
        raise RuntimeError(f"{checkout}: {states}")
    return spent, states["ok"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--inputs", type=Path, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    adopt_orphans()
    checkouts = {"this": REPOSITORY, **({"other": options.against.resolve()} if options.against else {})}
    spent: dict[str, list[Spent]] = {name: [] for name in checkouts}
    files = 0
    with tempfile.TemporaryDirectory(prefix="vidrisk-checkouts-") as scratch:
        work = Path(scratch)
        write_colour_bundle(work / "colours.bundle")
        inputs = options.inputs.resolve() if options.inputs else work / "photos"
        if not options.inputs:
            write_photos(inputs, options.files)
        for turn in range(options.rounds + 1):
            for name, checkout in checkouts.items():
                one, files = measure_quietly(partial(run_of, checkout, work / "colours.bundle", inputs, work))
                print(
                    f"turn {turn}, {name}: {files / one.wall_s:.1f} files/s, {one.cpu_s:.1f} s of processor", flush=True
                )
                if turn:  # the first one warms the file system
                    spent[name].append(one)
    found: dict[str, object] = {
        "machine": describe_machine(),
        "files": files,
        "rounds": options.rounds,
        "files_per_s": {
            name: round(statistics.median(files / one.wall_s for one in each), 1) for name, each in spent.items()
        },
        "cpu_ms_per_file": {
            name: round(statistics.median(1e3 * one.cpu_s / files for one in each), 3) for name, each in spent.items()
        },
    }
    if options.against:
        ratios = [ours.cpu_s / other.cpu_s for ours, other in zip(spent["this"], spent["other"], strict=True)]
        found["cpu_ratio"] = {
            "median": round(statistics.median(ratios), 3),
            "least": round(min(ratios), 3),
            "most": round(max(ratios), 3),
        }
    kind = options.inputs.name if options.inputs else "tiny photos"
    known = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    options.output.write_text(json.dumps(known | {kind: found}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in found.items() if name != "machine"}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
